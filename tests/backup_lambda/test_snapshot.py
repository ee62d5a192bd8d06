import pytest

from backup_lambda import snapshot
from backup_lambda.errors import DatabaseFailed
from tests.servers import Cluster


async def test_a_server_that_lacks_a_setting_is_said_to_be_too_old(cluster: Cluster) -> None:
    """As PostgreSQL 16 lacks transaction_timeout."""
    with pytest.raises(DatabaseFailed, match=r'17 or newer is needed: .*parameter "of_the_next_release"'):
        await snapshot.connect(cluster.url("notes_backup", "holdfast"), of_the_next_release="1")
