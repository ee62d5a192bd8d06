"""The OpenAPI document, which clients build against.

    python -m scheduler.openapi

prints it. It needs no settings, and connects to nothing.
"""

import json
import sys

from scheduler.app import create_app
from scheduler.settings import Settings


def main() -> None:
    settings = Settings.model_validate({"database_url": "postgresql://nobody@localhost/nothing"})
    sys.stdout.write(json.dumps(create_app(settings).openapi(), indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
