"""A bucket, a topic with a queue that hears it, and a database, new for each test."""

import json
import secrets
from collections.abc import AsyncIterator, Iterator

import asyncpg
import httpx
import pytest

from backup_lambda import aws
from backup_lambda.notices import Topic
from backup_lambda.worker import Worker
from tests.backup_lambda.world import Connection, World, client_of, worker_for
from tests.servers import Aws, Cluster


@pytest.fixture
def aws_environment(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that botocore reads, set for this process too."""
    environment = {
        "AWS_ENDPOINT_URL": aws.endpoint_url,
        "AWS_DEFAULT_REGION": aws.region,
        "AWS_ACCESS_KEY_ID": aws.access_key,
        "AWS_SECRET_ACCESS_KEY": aws.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
async def world(aws_environment: dict[str, str]) -> AsyncIterator[World]:
    name = f"test-{secrets.token_hex(6)}"
    async with aws.clients("s3", "sns", "sqs") as (s3, sns, sqs):
        await s3.create_bucket(Bucket=name)
        topic_arn = (await sns.create_topic(Name=name))["TopicArn"]
        queue_url = (await sqs.create_queue(QueueName=name))["QueueUrl"]
        attributes = await sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        queue_arn = attributes["Attributes"]["QueueArn"]
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "sns.amazonaws.com"},
                    "Action": "sqs:SendMessage",
                    "Resource": queue_arn,
                    "Condition": {"ArnEquals": {"aws:SourceArn": topic_arn}},
                }
            ],
        }
        await sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"Policy": json.dumps(policy)})
        await sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn)
        yield World(s3, sns, sqs, name, Topic(sns, topic_arn), queue_url)


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    with cluster.database() as name:
        yield name


@pytest.fixture
async def owner(cluster: Cluster, database: str) -> AsyncIterator[Connection]:
    """The superuser, in the test's database."""
    connection = await asyncpg.connect(cluster.url("postgres", database))
    # So that what a test makes is readable, as what the migrations make is.
    await connection.execute(
        "alter default privileges in schema notes, scheduler grant select on tables to notes_backup;"
        "alter default privileges in schema notes, scheduler grant select on sequences to notes_backup"
    )
    yield connection
    await connection.close()


@pytest.fixture
def worker(world: World, cluster: Cluster, database: str) -> Worker:
    return worker_for(world, cluster.url("notes_backup", database))


@pytest.fixture
async def api(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(world, world.start_worker) as client:
        yield client
