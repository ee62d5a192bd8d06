"""Write docs/rights.md, who may do what on AWS, from the committed templates: `python -m deploy.cdk.rights`.

It needs neither CDK nor Node. A test compares the file with the templates.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "deploy" / "cdk" / "templates"
TABLE = ROOT / "docs" / "rights.md"
HEAD = """# Who may do what on AWS

Made from `deploy/cdk/templates/` by `python -m deploy.cdk.rights`; a test compares the two. The reason of each right is
in `deploy/cdk/policies.py`. What is not listed is denied. Names are those of the templates.
"""
# By the template's name.
STACKS = {
    "backup": "The backup stack",
    "storage": "The storage stack",
    "network": "The network stack",
    "data": "The data stack",
    "host": "The host stack",
    "notes_api": "The stack of the notes API on ECS",
    "scheduler": "The stack of the scheduler on ECS",
}
STACK_CONDITIONS = {
    "EncryptedByKms": "`KmsKeyArn` is set",
    "Locked": "`ObjectLockDays` is not 0",
    "ByIam": "`DatabaseSecretArn` is empty",
    "ByPassword": "`DatabaseSecretArn` is set",
    "RestoresByIam": "`DatabaseSecretArn` is empty, and `RestoresLive`",
    "RestoresByPassword": "`DatabaseSecretArn` is set, and `RestoresLive`",
    "WithTask": "`WorkerImage` is set",
    "Private": "`InVpc`",
}
Resources = dict[str, dict[str, Any]]


def page() -> str:
    return "\n".join([HEAD, *(line for name, title in STACKS.items() for line in _stack(name, title))])


def _stack(name: str, title: str) -> Iterator[str]:
    resources: Resources = json.loads((TEMPLATES / f"{name}.json").read_text())["Resources"]
    yield f"## {title}\n"
    yield from _identities(resources)
    yield from _resource_policies(resources)


def _identities(resources: Resources) -> Iterator[str]:
    for name, role in _of_type(resources, "AWS::IAM::Role"):
        trusted = [each["Principal"]["Service"] for each in role["AssumeRolePolicyDocument"]["Statement"]]
        yield f"### {name}, the role of {' and '.join(trusted)}\n"
        for arn in role.get("ManagedPolicyArns", []):
            yield f"{_policy(_text(arn))}.\n"
        for policy in role.get("Policies", []):
            yield from _table(policy["PolicyDocument"]["Statement"])
    for name, policy in _of_type(resources, "AWS::IAM::ManagedPolicy"):
        yield f"### {name}, to attach to a user or a role\n"
        yield from _table(policy["PolicyDocument"]["Statement"])


def _policy(arn: str) -> str:
    _, own, name = arn.partition(":policy/")
    return f"AWS's own policy `{name}`" if own else f"Also the policy `{arn}`, as above"


def _table(statements: list[dict[str, Any]]) -> Iterator[str]:
    yield from _rows("why", "action", "resource", "condition")
    for each in map(_as_on_aws, statements):
        why = each["Sid"] if each["Effect"] == "Allow" else f"{each['Sid']}: **denied**"
        yield _row(why, _code(each["Action"]), _code(each["Resource"]), _condition(each))
    yield ""


def _resource_policies(resources: Resources) -> Iterator[str]:
    if rows := [*_of_resources(resources)]:
        yield "### Policies of the resources themselves\n"
        yield from [*_rows("resource", "why", "effect", "who", "action", "condition"), *rows, ""]


def _of_resources(resources: Resources) -> Iterator[str]:
    for kind in ("AWS::S3::BucketPolicy", "AWS::SNS::TopicPolicy", "AWS::SQS::QueuePolicy"):
        for _, policy in _of_type(resources, kind):
            for each in map(_as_on_aws, policy["PolicyDocument"]["Statement"]):
                who, what = _principal(each["Principal"]), _code(each["Action"])
                yield _row(_code(each["Resource"]), each["Sid"], each["Effect"], who, what, _condition(each))
    for _, each in _of_type(resources, "AWS::Lambda::Permission"):
        who, what, source = _code(each["Principal"]), _code(each["Action"]), _code(each["SourceArn"])
        yield _row(_code(each["FunctionName"]), "", "Allow", who, what, f"called by {source}")


def _as_on_aws(statement: dict[str, Any]) -> dict[str, Any]:
    """A statement as it is where RequireTls is true, with the condition of the stack that it depends on, if any."""
    if "Fn::If" not in statement:
        return statement
    condition, found, _ = statement["Fn::If"]
    return found if condition == "Tls" else {**found, "If": condition}


def _principal(principal: Any) -> str:
    return "everyone" if principal == "*" else _code(next(iter(principal.values())))


def _condition(statement: dict[str, Any]) -> str:
    tests = statement.get("Condition", {}).items()
    of_stack = [f"only if {STACK_CONDITIONS[statement['If']]}"] if "If" in statement else []
    of_request = [f"{operator} `{key}` {_code(value)}" for operator, test in tests for key, value in test.items()]
    return "; ".join([*of_stack, *of_request])


def _code(values: Any) -> str:
    return "<br>".join(f"`{_text(value)}`" for value in (values if isinstance(values, list) else [values]))


def _text(value: Any) -> str:
    """A value of the template as people say it: names for references, ARNs without what is the same in all."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            whole = re.sub(r"{{resolve:ssm:/([^}]*)}}", r"\1", separator.join(map(_text, parts)))
            return whole if ":policy/" in whole else re.sub(r"^arn:[^/]*:", "", whole)
        case {"Fn::GetAtt": [name, _]} | {"Ref": name}:
            return str(name).removeprefix("AWS::")
        case _:
            return str(value)


def _of_type(resources: Resources, kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, resource["Properties"]) for name, resource in resources.items() if resource["Type"] == kind]


def _rows(*titles: str) -> list[str]:
    return [_row(*titles), "|" + "---|" * len(titles)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    TABLE.write_text(page())
    print(TABLE)


if __name__ == "__main__":
    main()
