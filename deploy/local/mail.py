"""Mail of the one-machine stack: `python -m deploy.local.mail SETTINGS`, a file with the fields of Settings as JSON.

SNS in the emulator accepts email subscriptions and delivers nothing to them. This program does that part: it takes
the topic's messages from a queue that is subscribed like any other, and sends each to the email subscribers whose
filter policy lets it through. Mails go to an SMTP server of our own, which keeps each as a file, or to `smtp_url`.

A message leaves the queue only after its mails were taken by the SMTP server: one may be sent twice, none is lost.
Subscriptions are written to `subscriptions_file` before their confirmation is mailed, because the emulator forgets
them when it is killed.
"""

import json
import logging
import signal
import smtplib
import socket
import sys
import time
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from botocore.exceptions import BotoCoreError, ClientError

from deploy.local.home import write_private

SENDER = "Holdfast <holdfast@localhost>"
POLL_SECONDS = 1
log = logging.getLogger("holdfast.mail")


@dataclass(frozen=True)
class Settings:
    topic_arn: str
    queue_url: str
    mail_folder: str
    subscriptions_file: str
    smtp_port: int
    smtp_url: str
    endpoint_url: str
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


class Mailbox:
    """An aiosmtpd handler: every mail becomes a file `{time}-{number}.eml`, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's name
        content = envelope.content if isinstance(envelope.content, str) else (envelope.content or b"").decode()
        self._count += 1
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{time.time_ns() % 1_000_000_000:09}-{self._count}.eml"
        write_private(self._folder / name, content)
        return "250 kept"


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    keys = {"aws_access_key_id": settings.access_key, "aws_secret_access_key": settings.secret_key}
    sns, sqs = (
        boto3.client(name, endpoint_url=settings.endpoint_url, region_name=settings.region, **keys)
        for name in ("sns", "sqs")
    )
    if not settings.smtp_url:
        Controller(Mailbox(Path(settings.mail_folder)), hostname="127.0.0.1", port=settings.smtp_port).start()
    while True:
        try:
            keep_subscriptions(sns, settings)
            deliver_messages(sns, sqs, settings)
            Path(settings.subscriptions_file).with_name("polled").touch()  # a sign of life
        except (BotoCoreError, ClientError, OSError, smtplib.SMTPException) as error:
            log.warning("trying again in a moment: %s", error)
            time.sleep(POLL_SECONDS)


def answers(settings: Settings) -> bool:
    """Whether the SMTP server takes connections; one of somebody else's is not waited for."""
    if settings.smtp_url:
        return True
    try:
        with socket.create_connection(("127.0.0.1", settings.smtp_port), timeout=1):
            return True
    except OSError:
        return False


def keep_subscriptions(sns: Any, settings: Settings) -> None:
    """Write down who is subscribed, then confirm to whom is new, then write down that they know."""
    file = Path(settings.subscriptions_file)
    before: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    known: list[dict[str, Any]] = [{**each, "confirmed": True} for each in email_subscriptions(sns, settings.topic_arn)]
    now = [each if each in before else {**each, "confirmed": False} for each in known]
    if now != before:
        write_private(file, json.dumps(now, indent=2))
    for subscription in now:
        if not subscription["confirmed"]:
            wanted = json.loads(subscription["filter_policy"] or "{}").get("type", ["everything"])
            text = f"This address gets mail about backups from now on: {', '.join(wanted)}.\n"
            send(settings, subscription["email"], "Holdfast: you are subscribed", text)
            subscription["confirmed"] = True
            write_private(file, json.dumps(now, indent=2))


def email_subscriptions(sns: Any, topic_arn: str) -> list[dict[str, str]]:
    """`[{"email", "filter_policy"}]` in a stable order; the policy is JSON, or empty for everything."""
    pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=topic_arn)
    found = []
    for subscription in (each for page in pages for each in page["Subscriptions"] if each["Protocol"] == "email"):
        attributes = sns.get_subscription_attributes(SubscriptionArn=subscription["SubscriptionArn"])["Attributes"]
        found.append({"email": subscription["Endpoint"], "filter_policy": attributes.get("FilterPolicy", "")})
    return sorted(found, key=lambda each: (each["email"], each["filter_policy"]))


def deliver_messages(sns: Any, sqs: Any, settings: Settings) -> None:
    """Wait up to POLL_SECONDS for messages; mail each to its subscribers, then take it off the queue."""
    answer = sqs.receive_message(
        QueueUrl=settings.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=POLL_SECONDS, VisibilityTimeout=30
    )
    for message in answer.get("Messages", []):
        notification = json.loads(message["Body"])
        attributes = {name: each["Value"] for name, each in notification.get("MessageAttributes", {}).items()}
        for subscription in email_subscriptions(sns, settings.topic_arn):
            if lets_through(subscription["filter_policy"], attributes):
                send(settings, subscription["email"], notification.get("Subject") or "Holdfast", text_of(notification))
        sqs.delete_message(QueueUrl=settings.queue_url, ReceiptHandle=message["ReceiptHandle"])


def lets_through(filter_policy: str, attributes: dict[str, str]) -> bool:
    """Exact values only, which is what our subscriptions use of SNS filter policies."""
    return all(attributes.get(name) in allowed for name, allowed in json.loads(filter_policy or "{}").items())


def text_of(notification: dict[str, Any]) -> str:
    """The text for people inside our events; whatever else was published is mailed as it is."""
    try:
        return str(json.loads(notification["Message"])["data"]["text"])
    except (ValueError, KeyError, TypeError):
        return str(notification["Message"])


def send(settings: Settings, to: str, subject: str, text: str) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, to, subject
    message.set_content(text, cte="7bit" if text.isascii() else "quoted-printable")  # readable as a file, if it can be
    server = urlsplit(settings.smtp_url or f"smtp://127.0.0.1:{settings.smtp_port}")
    with smtplib.SMTP(server.hostname or "127.0.0.1", server.port or 25, timeout=10) as smtp:
        if server.username:
            smtp.starttls()
            smtp.login(unquote(server.username), unquote(server.password or ""))
        try:
            smtp.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            if any(code < 500 for code, _ in error.recipients.values()):
                raise
            # For good: tried again, it would keep all others waiting, and those before it would get theirs again.
            log.error("%r cannot be mailed to %s: %s", subject, to, error.recipients)
            return
    log.info("mailed %r to %s", subject, to)


if __name__ == "__main__":
    main()
