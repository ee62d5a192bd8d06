"""The data stack: what must not be lost, or not be told. PostgreSQL, the proofs' server, Valkey, keys, images.

Nobody has a password of the databases: IAM lets roles in. RDS makes that of the master user, keeps it in Secrets
Manager and changes it; it is for deploy/postgres/roles.sql.
"""

import json
from pathlib import Path
from typing import Any

from aws_cdk import Aws, CfnDeletionPolicy, CfnElement, CfnResource, Fn, Stack, Token
from aws_cdk import aws_ecr as ecr
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticache as elasticache
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_logs as logs
from aws_cdk import aws_rds as rds
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct

from deploy.cdk import policies
from deploy.cdk.parameters import DataParameters, publish, published, short_name
from deploy.cdk.stacks import by_cloudformation_alone

POSTGRESQL = "18"  # the major version, of both servers: a proof must find the same types and functions
VALKEY = "8.1"
MASTER = "holdfast_master"
ROLES_SQL = Path(__file__).parents[1] / "postgres" / "roles.sql"
KEEP_LOGS_DAYS = 90
START_PSQL = """printf '%s' "$AUTHORITY" > "$PGSSLROOTCERT"; printf '%s' "$ROLES" | psql --no-psqlrc --quiet"""

IMAGES = ("notes_api", "scheduler", "backup_lambda", "deploy")
_OLD = {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 50}
KEEP_IMAGES = json.dumps({"rules": [{"rulePriority": 1, "selection": _OLD, "action": {"type": "expire"}}]})


class DataStack(Stack):
    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name, **by_cloudformation_alone("Holdfast: its databases and keys"))
        self.parameters = DataParameters(self)
        self.subnets = [published(self.parameters.network, f"PrivateSubnet{zone}") for zone in ("A", "B")]
        database, proof = self._databases()
        signing_key = self._signing_key()
        self._images()
        self._roles(database, proof)
        publish(
            self,
            {
                "Endpoint": _endpoint(database),
                "ResourceId": database.attr_dbi_resource_id,
                "InstanceId": database.ref,
                "MasterSecretArn": database.attr_master_user_secret_secret_arn,
                "ProofEndpoint": _endpoint(proof),
                "ProofResourceId": proof.attr_dbi_resource_id,
                "ProofInstanceId": proof.ref,
                "ProofMasterSecretArn": proof.attr_master_user_secret_secret_arn,
                "Authorities": self.parameters.authorities,
                "RedisUrlSecretArn": self._valkey(),
                "CursorKeySecretArn": self._secret("CursorKey", "Signs the cursors of lists of notes").ref,
                "SigningKeyArn": signing_key.attr_arn,
            },
        )

    def _databases(self) -> tuple[rds.CfnDBInstance, rds.CfnDBInstance]:
        within = rds.CfnDBSubnetGroup(
            self, "DatabaseSubnets", db_subnet_group_description="Private subnets", subnet_ids=self.subnets
        )
        settings = rds.CfnDBParameterGroup(
            self,
            "DatabaseSettings",
            description="TLS is a must; statements of a second or more are logged, for a week",
            family=f"postgres{POSTGRESQL}",
            parameters={
                "rds.force_ssl": "1",
                "log_min_duration_statement": "1000",
                "log_lock_waits": "1",
                "rds.log_retention_period": "10080",
            },
        )
        monitoring = iam.CfnRole(
            self,
            "MonitoringRole",
            assume_role_policy_document=policies.assumed_by("monitoring.rds.amazonaws.com"),
            managed_policy_arns=[policies.managed("service-role/AmazonRDSEnhancedMonitoringRole")],
        )
        both: dict[str, Any] = {
            "engine": "postgres",
            "engine_version": POSTGRESQL,
            "auto_minor_version_upgrade": True,
            "db_subnet_group_name": within.ref,
            "db_parameter_group_name": settings.ref,
            "vpc_security_groups": [published(self.parameters.network, "DatabaseSecurityGroup")],
            "publicly_accessible": False,
            "storage_encrypted": True,
            "storage_type": "gp3",
            "ca_certificate_identifier": "rds-ca-rsa2048-g1",
            "enable_iam_database_authentication": True,
            "master_username": MASTER,
            "manage_master_user_password": True,
            "monitoring_interval": 60,
            "monitoring_role_arn": monitoring.attr_arn,
        }
        database = rds.CfnDBInstance(
            self,
            "Database",
            **both,
            db_name="holdfast",
            db_instance_class=self.parameters.database_class,
            allocated_storage=self.parameters.database_storage,
            max_allocated_storage=Token.as_number(self.parameters.database_max_storage),
            multi_az=Fn.condition_if(self.parameters.multi_az.logical_id, True, False),
            backup_retention_period=14,  # days in which any second can be had back, beside our own backups
            copy_tags_to_snapshot=True,
            deletion_protection=True,
        )
        _keep_a_snapshot(database)
        # What is on it can be made anew from what it proves, at any time.
        proof = rds.CfnDBInstance(
            self,
            "ProofDatabase",
            **both,
            db_name="holdfast",  # nothing is in it; to make scratch databases one is connected to `postgres`
            db_instance_class=self.parameters.proof_class,
            allocated_storage=self.parameters.proof_storage,
            max_allocated_storage=Token.as_number(self.parameters.database_max_storage),
            backup_retention_period=0,
        )
        proof.cfn_options.deletion_policy = proof.cfn_options.update_replace_policy = CfnDeletionPolicy.DELETE
        return database, proof

    def _valkey(self) -> str:
        """The ARN of the secret whose string is its URL."""
        within = elasticache.CfnSubnetGroup(
            self, "CacheSubnets", description="Private subnets", subnet_ids=self.subnets
        )
        token = self._secret("CacheToken", "Lets services in to Valkey")
        group = elasticache.CfnReplicationGroup(
            self,
            "Cache",
            replication_group_description="Wakes the scheduler's workers, and counts requests: it may be lost",
            engine="valkey",
            engine_version=VALKEY,
            cache_node_type=self.parameters.cache_class,
            num_cache_clusters=Token.as_number(Fn.condition_if(self.parameters.multi_az.logical_id, 2, 1)),
            automatic_failover_enabled=Fn.condition_if(self.parameters.multi_az.logical_id, True, False),
            multi_az_enabled=Fn.condition_if(self.parameters.multi_az.logical_id, True, False),
            cache_subnet_group_name=within.ref,
            security_group_ids=[published(self.parameters.network, "CacheSecurityGroup")],
            port=6379,
            transit_encryption_enabled=True,
            at_rest_encryption_enabled=True,
            auth_token=_string_of(token),
        )
        place = f"{group.attr_primary_end_point_address}:{group.attr_primary_end_point_port}/0"
        publish(self, {"CacheId": group.ref, "CacheTokenSecretArn": token.ref})
        url = secretsmanager.CfnSecret(
            self,
            "RedisUrl",
            description="Where Valkey is, and what lets services in",
            secret_string=f"rediss://:{_string_of(token)}@{place}",
        )
        return url.ref

    def _secret(self, name: str, description: str) -> secretsmanager.CfnSecret:
        generated = secretsmanager.CfnSecret.GenerateSecretStringProperty(exclude_punctuation=True, password_length=48)
        return secretsmanager.CfnSecret(self, name, description=description, generate_secret_string=generated)

    def _signing_key(self) -> kms.CfnKey:
        """Signs manifests. It never leaves KMS, and what it has signed is checked with its public half for ever."""
        key = kms.CfnKey(
            self,
            "SigningKey",
            description="Signs the manifests of backups",
            key_spec="ECC_NIST_EDWARDS25519",
            key_usage="SIGN_VERIFY",
            pending_window_in_days=30,
            key_policy=policies.key_of_the_account(),
        )
        key.cfn_options.deletion_policy = key.cfn_options.update_replace_policy = CfnDeletionPolicy.RETAIN
        return key

    def _roles(self, database: rds.CfnDBInstance, proof: rds.CfnDBInstance) -> None:
        """Tasks that somebody runs once for each server, and again after a restore: deploy/postgres/roles.sql.

        They are the only ones that have the master user's password.
        """
        log = logs.CfnLogGroup(self, "RolesLog", retention_in_days=KEEP_LOGS_DAYS)
        insights = ecs.CfnCluster.ClusterSettingsProperty(name="containerInsights", value="enabled")
        cluster = ecs.CfnCluster(self, "Cluster", cluster_settings=[insights])
        publish(self, {"ClusterName": cluster.ref})
        for name, server in (("Roles", database), ("ProofRoles", proof)):
            secret = server.attr_master_user_secret_secret_arn
            execution = iam.CfnRole(
                self,
                f"{name}ExecutionRole",
                assume_role_policy_document=policies.assumed_by("ecs-tasks.amazonaws.com"),
                policies=[
                    iam.CfnRole.PolicyProperty(
                        policy_name="Rights",
                        policy_document=policies.document(*policies.public_task_execution(log.attr_arn, secret)),
                    )
                ],
            )
            told = {
                "PGHOST": server.attr_endpoint_address,
                "PGPORT": server.attr_endpoint_port,
                "PGUSER": MASTER,
                "PGDATABASE": "holdfast",
                "PGSSLMODE": "verify-full",
                "PGSSLROOTCERT": "/tmp/authority.pem",  # noqa: S108  # of the container
                "AUTHORITY": self.parameters.authorities,
                "ROLES": ROLES_SQL.read_text(),
            }
            definition = ecs.CfnTaskDefinition(
                self,
                f"{name}Definition",
                family=f"{Aws.STACK_NAME}-{name.lower()}",
                requires_compatibilities=["FARGATE"],
                network_mode="awsvpc",
                cpu="256",
                memory="512",
                execution_role_arn=execution.attr_arn,
                container_definitions=[
                    {
                        "name": "main",
                        "image": f"public.ecr.aws/docker/library/postgres:{POSTGRESQL}",
                        "entryPoint": ["sh", "-euc"],
                        "command": [START_PSQL],
                        "environment": [{"name": key, "value": value} for key, value in told.items()],
                        "secrets": [{"name": "PGPASSWORD", "valueFrom": f"{secret}:password::"}],
                        "logConfiguration": {
                            "logDriver": "awslogs",
                            "options": {
                                "awslogs-group": log.ref,
                                "awslogs-region": Aws.REGION,
                                "awslogs-stream-prefix": name.lower(),
                            },
                        },
                    }
                ],
            )
            publish(self, {f"{name}Task": definition.ref})

    def _images(self) -> None:
        """Also those of former releases, to go back to."""
        for name in IMAGES:
            repository = ecr.CfnRepository(
                self,
                "".join(word.title() for word in name.split("_")),
                repository_name=f"holdfast/{name}",
                image_tag_mutability="IMMUTABLE",
                image_scanning_configuration={"scanOnPush": True},
                lifecycle_policy={"lifecyclePolicyText": KEEP_IMAGES},
            )
            repository.cfn_options.deletion_policy = CfnDeletionPolicy.RETAIN_EXCEPT_ON_CREATE
            repository.cfn_options.update_replace_policy = CfnDeletionPolicy.RETAIN

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)


def _endpoint(instance: rds.CfnDBInstance) -> str:
    return f"{instance.attr_endpoint_address}:{instance.attr_endpoint_port}"


def _string_of(secret: secretsmanager.CfnSecret) -> str:
    return f"{{{{resolve:secretsmanager:{secret.ref}:SecretString}}}}"


def _keep_a_snapshot(of: CfnResource) -> None:
    of.cfn_options.deletion_policy = of.cfn_options.update_replace_policy = CfnDeletionPolicy.SNAPSHOT
