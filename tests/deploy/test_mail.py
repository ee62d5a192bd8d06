"""The topic's messages become mails for whom they are meant, once each mail server that is away is back."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from deploy.local import mail
from deploy.local.mail import Mailbox, Settings
from deploy.local.process import Program
from deploy.local.settings import ROOT
from tests.servers import Aws, free_port, running


@dataclass
class Topic:
    """A topic with a queue, as the one-machine stack makes them."""

    sns: Any
    settings: Settings

    def publish(self, text: str, type_: str = "backup.stored") -> None:
        self.sns.publish(
            TopicArn=self.settings.topic_arn,
            Subject="Backup stored",
            Message=json.dumps({"specversion": "1.0", "data": {"text": text}}),
            MessageAttributes={"type": {"DataType": "String", "StringValue": type_}},
        )

    def subscribe(self, email: str, *types: str) -> None:
        attributes = {"FilterPolicy": json.dumps({"type": types})} if types else {}
        self.sns.subscribe(TopicArn=self.settings.topic_arn, Protocol="email", Endpoint=email, Attributes=attributes)

    def mails(self, to: str) -> list[EmailMessage]:
        files = sorted(Path(self.settings.mail_folder).glob("*.eml"))
        mails = [message_from_bytes(file.read_bytes(), policy=modern) for file in files]
        return [mail for mail in mails if mail["To"] == to]


@pytest.fixture
def topic(aws: Aws, tmp_path: Path) -> Topic:
    keys = {"aws_access_key_id": aws.access_key, "aws_secret_access_key": aws.secret_key}
    sns, sqs = (
        boto3.client(name, endpoint_url=aws.endpoint_url, region_name=aws.region, **keys) for name in ("sns", "sqs")
    )
    topic_arn = sns.create_topic(Name=tmp_path.name)["TopicArn"]
    queue_url = sqs.create_queue(QueueName=tmp_path.name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    statement = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": queue_arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn)
    (tmp_path / "mail").mkdir()
    settings = Settings(
        topic_arn=topic_arn,
        queue_url=queue_url,
        mail_folder=str(tmp_path / "mail"),
        subscriptions_file=str(tmp_path / "subscriptions.json"),
        smtp_port=free_port(),
        smtp_url="",
        endpoint_url=aws.endpoint_url,
        region=aws.region,
        access_key=aws.access_key,
        secret_key=aws.secret_key,
    )
    return Topic(sns, settings)


@pytest.fixture
def mailer(topic: Topic, tmp_path: Path) -> Iterator[None]:
    with running(program(topic.settings, tmp_path), tmp_path):
        yield


def program(settings: Settings, folder: Path) -> Program:
    (folder / "mail.json").write_text(json.dumps(asdict(settings)))
    command = [sys.executable, "-m", "deploy.local.mail", str(folder / "mail.json")]
    return Program("mail", command, {}, ROOT, lambda: mail.answers(settings))


def eventually(attempt: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := attempt()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.mark.usefixtures("mailer")
def test_a_subscription_is_kept_before_it_is_confirmed(topic: Topic) -> None:
    topic.subscribe("ada@example.org", "backup.failed")
    (confirmation,) = eventually(lambda: topic.mails("ada@example.org"))
    assert "backup.failed" in confirmation.get_content()
    kept = json.loads(Path(topic.settings.subscriptions_file).read_text())
    assert [each["email"] for each in kept] == ["ada@example.org"]


@pytest.mark.usefixtures("mailer")
def test_each_subscriber_gets_what_they_chose(topic: Topic) -> None:
    topic.subscribe("ada@example.org")
    topic.subscribe("bob@example.org", "backup.failed")
    eventually(lambda: topic.mails("ada@example.org") and topic.mails("bob@example.org"))
    topic.publish("one row, safely kept")
    topic.publish("it did not work", "backup.failed")
    (_, failed) = eventually(lambda: m if len(m := topic.mails("bob@example.org")) == 2 else None)
    eventually(lambda: len(topic.mails("ada@example.org")) == 3)
    assert failed["Subject"] == "Backup stored"
    assert failed.get_content().strip() == "it did not work"


def test_a_mail_waits_until_the_smtp_server_is_back(topic: Topic, tmp_path: Path) -> None:
    port = free_port()
    topic.settings = replace(topic.settings, smtp_url=f"smtp://127.0.0.1:{port}")
    with running(program(topic.settings, tmp_path), tmp_path) as process:
        topic.subscribe("ada@example.org")
        topic.publish("the first one")
        eventually(lambda: "trying again" in process.log.read_text())
        server = Controller(Mailbox(Path(topic.settings.mail_folder)), hostname="127.0.0.1", port=port)
        server.start()
        try:
            (confirmation, message) = eventually(
                lambda: m if len(m := topic.mails("ada@example.org")) == 2 else None, 60
            )
        finally:
            server.stop()
    assert "subscribed" in confirmation["Subject"]
    assert "the first one" in message.get_content()


class Refusing(Mailbox):
    """Knows nobody whose name begins with `a`."""

    async def handle_RCPT(  # noqa: N802  # aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("a"):
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 known"


def test_a_subscriber_who_is_refused_for_good_holds_up_no_other(topic: Topic, tmp_path: Path) -> None:
    port = free_port()
    topic.settings = replace(topic.settings, smtp_url=f"smtp://127.0.0.1:{port}")
    server = Controller(Refusing(Path(topic.settings.mail_folder)), hostname="127.0.0.1", port=port)
    server.start()
    try:
        with running(program(topic.settings, tmp_path), tmp_path) as process:
            topic.subscribe("ada@example.org")
            topic.subscribe("bob@example.org")
            eventually(lambda: topic.mails("bob@example.org"))
            topic.publish("the first one")
            topic.publish("the second one")
            eventually(lambda: len(topic.mails("bob@example.org")) == 3)
            assert "cannot be mailed to ada@example.org" in process.log.read_text()
            assert "trying again" not in process.log.read_text()
    finally:
        server.stop()


def test_a_message_that_is_not_ours_is_mailed_as_it_is() -> None:
    assert mail.text_of({"Message": "CloudWatch says hello"}) == "CloudWatch says hello"
    assert mail.text_of({"Message": '{"data": {}}'}) == '{"data": {}}'


def test_settings_show_no_keys(topic: Topic) -> None:
    assert topic.settings.secret_key not in repr(topic.settings)
