"""The committed template of the storage stack holds what must not be lost in a change."""

import json
from typing import Any

from deploy.cdk.app import TEMPLATES

CONTENT: dict[str, Any] = json.loads((TEMPLATES / "storage.json").read_text())
ATTACHMENTS = {"Fn::Join": ["", [{"Fn::GetAtt": ["Bucket", "Arn"]}, "/attachments/*"]]}


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = CONTENT["Resources"][name]["Properties"]
    return found


def test_what_a_deployment_says_and_is_told() -> None:
    assert {name: each.get("Default") for name, each in CONTENT["Parameters"].items()} == {
        "RequireTls": "true",
        "CorsOrigins": "",
        "StaticFiles": "false",
    }
    published = {"BucketName", "TopicArn", "NotesApiPolicyArn"}
    assert set(CONTENT["Outputs"]) == published | {"StaticAddress"}
    always = {name for name, each in CONTENT["Resources"].items() if each.get("Condition") != "WithStaticFiles"}
    parameters = {f"{name}Parameter" for name in published}
    assert always == {"Bucket", "BucketPolicy", "Topic", "TopicPolicy", "NotesApiPolicy", *parameters}


def test_static_files_are_read_through_cloudfront_alone_and_over_tls() -> None:
    assert set(properties("StaticBucket")["PublicAccessBlockConfiguration"].values()) == {True}
    denied, shown = properties("StaticPolicy")["PolicyDocument"]["Statement"]
    assert (denied["Sid"], shown["Principal"]) == ("OnlyOverTls", {"Service": "cloudfront.amazonaws.com"})
    assert "StaticDistribution" in json.dumps(shown["Condition"]["StringEquals"]["AWS:SourceArn"])
    behaviour = properties("StaticDistribution")["DistributionConfig"]["DefaultCacheBehavior"]
    assert behaviour["ViewerProtocolPolicy"] == "redirect-to-https"


def test_the_notes_api_reaches_attachments_and_tells_of_changes_and_nothing_else() -> None:
    statements = properties("NotesApiPolicy")["PolicyDocument"]["Statement"]
    assert {each["Effect"] for each in statements} == {"Allow"}
    assert {each["Action"]: each["Resource"] for each in statements} == {
        "s3:PutObject": ATTACHMENTS,
        "s3:GetObject": ATTACHMENTS,
        "s3:GetObjectVersion": ATTACHMENTS,
        "s3:DeleteObject": ATTACHMENTS,
        "s3:ListBucket": {"Fn::GetAtt": ["Bucket", "Arn"]},
        "sns:Publish": {"Ref": "Topic"},
    }
    (limited,) = [each for each in statements if "Condition" in each]
    assert limited["Action"] == "s3:ListBucket"
    assert limited["Condition"] == {"StringLike": {"s3:prefix": "attachments/*"}}


def test_the_bucket_is_versioned_encrypted_private_and_tidy() -> None:
    bucket = properties("Bucket")
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    (encryption,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    uploads, versions = bucket["LifecycleConfiguration"]["Rules"]
    assert uploads["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert versions["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert not [each for each in (uploads, versions) if "ExpirationInDays" in each or each["Status"] != "Enabled"]


def test_pages_come_to_the_bucket_only_where_their_origins_are_named() -> None:
    condition, cors, otherwise = properties("Bucket")["CorsConfiguration"]["Fn::If"]
    assert (condition, otherwise) == ("BrowsersCome", {"Ref": "AWS::NoValue"})
    assert CONTENT["Conditions"]["BrowsersCome"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "CorsOrigins"}, ""]}]}
    (rule,) = cors["CorsRules"]
    assert rule["AllowedOrigins"] == {"Fn::Split": [",", {"Ref": "CorsOrigins"}]}
    assert rule["AllowedMethods"] == ["GET", "POST"]


def test_the_topic_keeps_order_and_is_the_accounts_own() -> None:
    topic = properties("Topic")
    assert topic["FifoTopic"] is True
    assert topic["TopicName"]["Fn::Join"][1][-1] == "-notes.fifo"
    _, ours = properties("TopicPolicy")["PolicyDocument"]["Statement"]
    assert ours["Effect"] == "Deny"
    assert ours["Condition"] == {"StringNotEquals": {"aws:PrincipalAccount": {"Ref": "AWS::AccountId"}}}


def test_plain_http_is_refused_unless_asked_for() -> None:
    assert CONTENT["Resources"]["BucketPolicy"]["Condition"] == "Tls"
    (of_bucket,) = properties("BucketPolicy")["PolicyDocument"]["Statement"]
    condition, of_topic, otherwise = properties("TopicPolicy")["PolicyDocument"]["Statement"][0]["Fn::If"]
    assert (condition, otherwise) == ("Tls", {"Ref": "AWS::NoValue"})
    for each in (of_bucket, of_topic):
        assert (each["Effect"], each["Principal"]) == ("Deny", "*")
        assert each["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
