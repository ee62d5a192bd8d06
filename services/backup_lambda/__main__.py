"""`python -m backup_lambda`: backups from a command line. What it needs beside the functions' own packages is extra."""

import os
import sys

try:
    from backup_lambda.cli import main
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in {"click", "httpx", "rich"}:
        raise
    sys.exit(f"{missing} is missing: the command line needs what services/backup_lambda/requirements-cli.txt pins")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
