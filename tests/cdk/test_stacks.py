"""The stacks beside backup and storage: what must not be lost in a change."""

import json
from typing import Any

import pytest

from deploy.cdk.app import TEMPLATES

Resource = dict[str, Any]
CONTENT: dict[str, dict[str, Any]] = {file.stem: json.loads(file.read_text()) for file in TEMPLATES.glob("*.json")}
SERVICES = ("notes_api", "scheduler")


def properties(stack: str, name: str) -> Resource:
    found: Resource = CONTENT[stack]["Resources"][name]["Properties"]
    return found


def of_type(stack: str, kind: str) -> dict[str, Resource]:
    return {name: each for name, each in CONTENT[stack]["Resources"].items() if each["Type"] == kind}


def text(value: Any, stack: str) -> str:
    """A value with the defaults of the stack's parameters."""
    match value:
        case {"Fn::Join": [separator, parts]}:
            return str(separator).join(text(part, stack) for part in parts)
        case {"Fn::If": [_, either, other]}:
            return f"{text(either, stack)} or {text(other, stack)}"
        case {"Ref": name} if name in CONTENT[stack]["Parameters"]:
            return str(CONTENT[stack]["Parameters"][name].get("Default", f"<{name}>"))
        case {"Ref": name} | {"Fn::GetAtt": [name, _]}:
            return f"<{name}>"
        case _:
            return str(value)


@pytest.mark.parametrize("stack", CONTENT)
def test_what_a_stack_reads_of_another_is_published_there(stack: str) -> None:
    published = {
        f"/holdfast-{name.replace('_', '-')}/{each['Properties']['Name']['Fn::Join'][1][-1].removeprefix('/')}"
        for name in CONTENT
        for each in of_type(name, "AWS::SSM::Parameter").values()
    }
    read = {found.split("}}")[0] for found in json.dumps(spelt_out(CONTENT[stack], stack)).split("{{resolve:ssm:")[1:]}
    assert read <= published


def spelt_out(value: Any, stack: str) -> Any:
    if isinstance(value, dict):
        if set(value) <= {"Ref"} or "Fn::Join" in value:
            return text(value, stack)
        return {key: spelt_out(each, stack) for key, each in value.items()}
    return [spelt_out(each, stack) for each in value] if isinstance(value, list) else value


def test_who_reaches_whom() -> None:
    groups = of_type("network", "AWS::EC2::SecurityGroup")
    reached = {
        name: sorted(
            (rule.get("CidrIp") or rule["SourceSecurityGroupId"]["Fn::GetAtt"][0], rule["FromPort"])
            for rule in group["Properties"].get("SecurityGroupIngress", [])
        )
        for name, group in groups.items()
    }
    anybody = "0.0.0.0/0"
    assert reached == {
        "WorkerGroup": [],
        "BalancerGroup": [(anybody, 80), (anybody, 443)],
        "HostGroup": [(anybody, 80), (anybody, 443)],
        "ServiceGroup": [("BalancerGroup", 8000)],
        "DatabaseGroup": [("HostGroup", 5432), ("ServiceGroup", 5432), ("WorkerGroup", 5432)],
        "CacheGroup": [("HostGroup", 6379), ("ServiceGroup", 6379)],
        "EndpointsGroup": [("WorkerGroup", 443)],
    }


def test_no_way_leads_out_of_the_private_subnets() -> None:
    routes = [each["Properties"] for each in of_type("network", "AWS::EC2::Route").values()]
    assert [each["RouteTableId"] for each in routes] == [{"Ref": "PublicRoutes"}]
    assert not of_type("network", "AWS::EC2::NatGateway")
    zones = {properties("network", f"{kind}{zone}")["AvailabilityZone"]["Fn::Select"][0]
             for kind in ("Public", "Private") for zone in "AB"}  # fmt: skip
    assert zones == {0, 1}


def test_nobody_needs_a_password_of_the_databases_and_all_speak_tls() -> None:
    assert properties("data", "DatabaseSettings")["Parameters"]["rds.force_ssl"] == "1"
    for name in ("Database", "ProofDatabase"):
        instance = properties("data", name)
        assert instance["EnableIAMDatabaseAuthentication"] is True
        assert instance["ManageMasterUserPassword"] is True
        assert "MasterUserPassword" not in instance
        assert instance["StorageEncrypted"] is True
        assert instance["PubliclyAccessible"] is False
        assert (instance["Engine"], instance["EngineVersion"]) == ("postgres", "18")


def test_the_database_is_not_lost_with_its_stack() -> None:
    database = CONTENT["data"]["Resources"]["Database"]
    assert database["Properties"]["DeletionProtection"] is True
    assert database["Properties"]["BackupRetentionPeriod"] == 14
    assert (database["DeletionPolicy"], database["UpdateReplacePolicy"]) == ("Snapshot", "Snapshot")
    assert database["Properties"]["MultiAZ"] == {"Fn::If": ["TwoZones", True, False]}
    key = CONTENT["data"]["Resources"]["SigningKey"]
    assert key["Properties"]["KeySpec"] == "ECC_NIST_EDWARDS25519"
    assert (key["DeletionPolicy"], key["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_valkey_lets_in_who_has_its_token_and_speaks_tls() -> None:
    cache = properties("data", "Cache")
    assert (cache["Engine"], cache["TransitEncryptionEnabled"], cache["AtRestEncryptionEnabled"]) == (
        "valkey",
        True,
        True,
    )
    assert text(cache["AuthToken"], "data") == "{{resolve:secretsmanager:<CacheToken>:SecretString}}"
    url = text(properties("data", "RedisUrl")["SecretString"], "data")
    assert url == "rediss://:{{resolve:secretsmanager:<CacheToken>:SecretString}}@<Cache>:<Cache>/0"


@pytest.mark.parametrize("stack", SERVICES)
def test_a_deployment_that_does_not_become_healthy_is_rolled_back(stack: str) -> None:
    for service in of_type(stack, "AWS::ECS::Service").values():
        deployment = service["Properties"]["DeploymentConfiguration"]
        assert deployment["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
        assert deployment["MinimumHealthyPercent"] == 100, "there are never fewer than before"


@pytest.mark.parametrize("stack", SERVICES)
def test_each_program_has_roles_of_its_own_and_logs_in_as_itself(stack: str) -> None:
    definitions = of_type(stack, "AWS::ECS::TaskDefinition")
    roles = [each["Properties"][name]["Fn::GetAtt"][0] for each in definitions.values() for name in ROLE_NAMES]
    assert len(roles) == len(set(roles)) == 2 * len(definitions)
    for definition in definitions.values():
        (container,) = definition["Properties"]["ContainerDefinitions"]
        told = {each["Name"]: text(each["Value"], stack) for each in container["Environment"]}
        (login,) = [
            each
            for each in properties(stack, definition["Properties"]["TaskRoleArn"]["Fn::GetAtt"][0])["Policies"][0][
                "PolicyDocument"
            ]["Statement"]
            if each["Action"] == "rds-db:connect"
        ]
        role = text(login["Resource"], stack).rsplit("/", 1)[1]
        assert told["HOLDFAST_DATABASE_URL"].startswith(f"postgresql+iam://{role}@")
        assert (role.endswith("_owner")) is ("migrate" in str(container.get("Command")))


ROLE_NAMES = ("TaskRoleArn", "ExecutionRoleArn")


@pytest.mark.parametrize("stack", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(stack: str) -> None:
    for definition in of_type(stack, "AWS::ECS::TaskDefinition").values():
        (container,) = definition["Properties"]["ContainerDefinitions"]
        assert container["ReadonlyRootFilesystem"] is True
        assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
        assert not [each for each in container["Environment"] if "KEY" in each["Name"] or "REDIS" in each["Name"]]


def test_the_balancer_shows_what_a_service_has_a_rule_for_and_speaks_tls() -> None:
    (action,) = properties("cluster", "Listener")["DefaultActions"]
    assert action["FixedResponseConfig"]["StatusCode"] == "404"
    assert properties("cluster", "Listener")["SslPolicy"].startswith("ELBSecurityPolicy-TLS13-1-2")
    (redirected,) = properties("cluster", "ToTls")["DefaultActions"]
    assert redirected["RedirectConfig"]["Protocol"] == "HTTPS"
    rules = [
        (each["Properties"]["Priority"], pattern)
        for stack in SERVICES
        for each in of_type(stack, "AWS::ElasticLoadBalancingV2::ListenerRule").values()
        for pattern in each["Properties"]["Conditions"][0]["PathPatternConfig"]["Values"]
    ]
    assert not [pattern for _, pattern in rules if "metrics" in pattern or "readyz" in pattern or pattern == "/*"]
    of_notes = min(priority for priority, pattern in rules if pattern == "/v1/*")
    of_scheduler = max(priority for priority, pattern in rules if pattern.startswith("/v1/schedules"))
    assert of_scheduler < of_notes, "the narrower path is asked first"


def test_what_the_balancer_sends_on_is_what_nginx_sends_on() -> None:
    """The scheduler's paths of deploy/nginx/nginx.conf.template."""
    template = (TEMPLATES.parents[1] / "nginx" / "nginx.conf.template").read_text()
    assert "location ~ ^/v1/(schedules|runs|alarms)([/:]|$)" in template
    patterns = {
        pattern
        for each in of_type("scheduler", "AWS::ElasticLoadBalancingV2::ListenerRule").values()
        for pattern in each["Properties"]["Conditions"][0]["PathPatternConfig"]["Values"]
    }
    of_api = {f"/v1/{name}{end}" for name in ("schedules", "runs", "alarms") for end in ("", "/*", ":*")}
    assert "location /ops {" in template
    assert patterns == of_api | {"/ops", "/ops/*"}


def test_the_host_has_no_door_but_the_session_manager() -> None:
    instance, template = properties("host", "Instance"), properties("host", "Template")["LaunchTemplateData"]
    assert "KeyName" not in instance
    assert "KeyName" not in template
    assert template["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
    assert template["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    managed = json.dumps(properties("host", "HostRole")["ManagedPolicyArns"])
    assert "AmazonSSMManagedInstanceCore" in managed
    assert "unattended-upgrades" in template["UserData"]["Fn::Base64"]["Fn::Sub"]


def test_silence_about_proven_backups_is_an_alarm() -> None:
    alarm = properties("watch", "NoProvenBackupAlarm")
    assert (alarm["Period"], alarm["EvaluationPeriods"], alarm["TreatMissingData"]) == (3600, 26, "breaching")
    assert (alarm["ComparisonOperator"], alarm["Threshold"], alarm["Statistic"]) == ("LessThanThreshold", 1, "Sum")
    counted = properties("backup", "ProvenByFunction")
    assert counted["FilterPattern"] == '"backup proven"'
    (metric,) = counted["MetricTransformations"]
    assert (metric["MetricNamespace"], alarm["Namespace"]) == ("Holdfast", "Holdfast")
    name = text(alarm["MetricName"], "watch")
    assert name == text(metric["MetricName"], "backup").replace("<AWS::StackName>", "holdfast-backup")


def test_every_alarm_says_what_it_is_and_tells_the_topic() -> None:
    topic = "{{resolve:ssm:/holdfast-backup/TopicArn}}"
    for alarm in of_type("watch", "AWS::CloudWatch::Alarm").values():
        assert alarm["Properties"]["AlarmDescription"]
        assert [text(each, "watch") for each in alarm["Properties"]["AlarmActions"]] == [topic]


def test_logs_are_kept_for_a_set_time() -> None:
    for stack in CONTENT:
        for log in of_type(stack, "AWS::Logs::LogGroup").values():
            assert log["Properties"]["RetentionInDays"] in (30, 90)
