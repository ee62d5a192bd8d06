"""The OpenAPI document, which clients build against.

    python -m notes_api.openapi

prints it. It needs no settings, and connects to nothing.
"""

import json
import sys

from notes_api.app import create_app
from notes_api.settings import Settings


def main() -> None:
    settings = Settings.model_validate(
        {"database_url": "postgresql://nobody@localhost/nothing", "signing_key": "-" * 32}
    )
    sys.stdout.write(json.dumps(create_app(settings).openapi(), indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
