"""The folder of the one-machine stack is whole or refused; nothing in it is removed unless that was asked for."""

import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from deploy.local import home as homes
from deploy.local import signing
from deploy.local.home import Home, HomeError


def test_a_new_one_holds_secrets_that_only_the_owner_reads(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((home.path / "secrets.json").stat().st_mode) == 0o600
    assert len(set(home.secrets.values())) == len(home.secrets), "each password is another one"


def test_it_is_found_again(tmp_path: Path) -> None:
    assert Home.open(tmp_path / "home").secrets == Home.open(tmp_path / "home").secrets


def test_one_of_a_former_release_gets_the_secrets_that_it_lacks_and_keeps_its_own(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    former = {name: value for name, value in home.secrets.items() if name not in homes.LATER_SECRETS}
    home.write_private("secrets.json", json.dumps(former))
    now = Home.open(home.path).secrets
    assert now.keys() - former.keys() == homes.LATER_SECRETS
    assert now.items() >= former.items()
    assert Home.open(home.path).secrets == now, "made once"


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("version", "holdfast 0", "has layout 'holdfast 0', and this version needs 'holdfast 1'"),
        ("version", None, "has layout 'none'"),
        ("secrets.json", None, "is damaged"),
        ("secrets.json", '{"postgres": "x"', "is damaged"),
        ("secrets.json", "{}", "is damaged"),
        ("secrets.json", "null", "is damaged"),
    ],
)
def test_an_older_or_half_written_one_is_left_alone(
    tmp_path: Path, file: str, content: str | None, complaint: str
) -> None:
    path = Home.open(tmp_path / "home").path
    (path / "notes-of-somebody").touch()
    if content is None:
        (path / file).unlink()
    else:
        (path / file).write_text(content)
    with pytest.raises(HomeError, match=complaint) as refused:
        Home.open(path)
    assert "make reset" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (path / "notes-of-somebody").exists()


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    assert Home.open(tmp_path / "mounted").secrets


@pytest.mark.parametrize("file", ["logs/thesis", "env", "secrets.json", "version"])
def test_somebody_elses_folder_is_neither_used_nor_removed(tmp_path: Path, file: str) -> None:
    path = tmp_path / "precious"
    (path / file).parent.mkdir(parents=True)
    (path / file).write_text("mine")
    with pytest.raises(HomeError, match="holds other things than ours: choose another folder with HOLDFAST_HOME"):
        Home.open(path)
    with pytest.raises(HomeError, match="holds other things than ours, and was left alone"):
        homes.remove(path)
    assert (path / file).read_text() == "mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    path = Home.open(tmp_path / "home").path
    os.chown(path, 12345, 12345)
    for use in (Home.open, homes.remove):
        with pytest.raises(HomeError, match="belongs to the user with id 12345"):
            use(path)


def test_a_folder_that_cannot_be_is_refused_in_one_line() -> None:
    with pytest.raises(HomeError, match=r"/proc/x cannot be used \(.*\): choose another folder"):
        Home.open(Path("/proc/x"))
    with pytest.raises(HomeError, match="cannot be used"), homes.only_one(Path("/dev/null/x")):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has them elsewhere")
def test_data_that_is_gone_is_named(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    shutil.rmtree(home.private("postgres"))
    with pytest.raises(HomeError, match="which is gone, and its data with it"):
        home.private("postgres")


def test_only_one_stack_runs_on_it(tmp_path: Path) -> None:
    path = tmp_path / "home"
    assert homes.running(path) is None
    with homes.only_one(path):
        assert homes.running(path)
        with (
            pytest.raises(HomeError, match=r"runs already in .* \(process \d+\): `make down` stops it"),
            homes.only_one(path),
        ):
            pass
    assert homes.running(path) is None


def test_reset_removes_it_and_what_lies_outside(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    private = home.private("postgres")
    (private / "data").mkdir()
    homes.remove(home.path)
    assert not home.path.exists()
    assert not private.exists()


def test_the_key_that_signs_backups_is_made_once_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    made = signing.kept(home)
    assert made == signing.kept(Home.open(tmp_path / "home"))
    assert stat.S_IMODE((home.path / signing.FILE).stat().st_mode) == 0o600
    assert made != signing.kept(Home.open(tmp_path / "other"))
    assert made.pem not in repr(made)


def test_a_damaged_signing_key_is_named_and_never_replaced(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    home.write_private(signing.FILE, "-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(HomeError, match=r"signing-key\.pem is damaged: put it back"):
        signing.kept(home)
    assert (home.path / signing.FILE).read_text() == "-----BEGIN PRIVATE KEY-----\n"
