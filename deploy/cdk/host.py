"""The host stack: one machine with containers behind NGINX, the default for those who need no more.

Nothing on it must be kept: data is in the data stack, in buckets and in topics. Nobody logs in by SSH; Session Manager
is the way in. Its containers share its role, which a container reaches over one hop more than the machine itself.
"""

from aws_cdk import Aws, CfnElement, Fn, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.cdk import policies
from deploy.cdk.parameters import HostParameters, publish, published, short_name
from deploy.cdk.stacks import by_cloudformation_alone

DISK_GIB = 30
KEEP_LOGS_DAYS = 90
# Docker writes what the containers say; the agent sends it on, with how full disk and memory are.
AGENT = """{"agent": {"metrics_collection_interval": 60},
 "metrics": {"namespace": "Holdfast", "append_dimensions": {"InstanceId": "${!aws:InstanceId}"},
  "aggregation_dimensions": [["InstanceId"]],
  "metrics_collected": {"disk": {"resources": ["/"], "measurement": ["used_percent"], "drop_device": true},
                        "mem": {"measurement": ["used_percent"]}}},
 "logs": {"logs_collected": {"files": {"collect_list": [
   {"file_path": "/var/lib/docker/containers/*/*.log", "log_group_name": "${Log}", "log_stream_name": "containers",
    "publish_multi_logs": true},
   {"file_path": "/var/log/cloud-init-output.log", "log_group_name": "${Log}", "log_stream_name": "start"}]}}}}"""
START = """#!/bin/bash
set -euxo pipefail
export DEBIAN_FRONTEND=noninteractive
# It starts before it has its public address, and reaches nobody until then.
until curl --silent --max-time 3 --output /dev/null https://sts.${AWS::Region}.${AWS::URLSuffix}; do sleep 2; done
apt-get update
apt-get install -y docker.io docker-compose-v2 amazon-ecr-credential-helper unattended-upgrades
snap install aws-cli --classic
curl -fsSo /tmp/agent.deb https://amazoncloudwatch-agent.s3.amazonaws.com/ubuntu/arm64/latest/amazon-cloudwatch-agent.deb
dpkg -i /tmp/agent.deb
cat > /opt/aws/amazon-cloudwatch-agent/etc/holdfast.json <<'JSON'
AGENT
JSON
/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl -a fetch-config -m ec2 -s \\
  -c file:/opt/aws/amazon-cloudwatch-agent/etc/holdfast.json
mkdir -p /root/.docker /opt/holdfast
echo '{"credsStore": "ecr-login"}' > /root/.docker/config.json
/snap/bin/aws s3 cp "s3://${CodeBucket}/${Bundle}" - | tar xz -C /opt/holdfast
cd /opt/holdfast
cat > .env <<'ENV'
COMPOSE_PROFILES=aws
HOLDFAST_REGISTRY=${AWS::AccountId}.dkr.ecr.${AWS::Region}.amazonaws.com/holdfast
HOLDFAST_VERSION=${Version}
HOLDFAST_PULL_POLICY=missing
HOLDFAST_STACKS=${DataStack},${StorageStack},${BackupStack}
HOLDFAST_ADDRESS=0.0.0.0
HOLDFAST_PORT=80
HOLDFAST_TLS_PORT=443
AWS_DEFAULT_REGION=${AWS::Region}
ENV
cat > /etc/systemd/system/holdfast.service <<'UNIT'
[Unit]
Requires=docker.service
After=docker.service network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory=/opt/holdfast
Environment=HOME=/root
ExecStart=/usr/bin/docker compose up --detach --wait
ExecStop=/usr/bin/docker compose stop
TimeoutStartSec=600
[Install]
WantedBy=multi-user.target
UNIT
cat > /usr/local/bin/holdfast-answers <<'SH'
#!/bin/sh -e
test "$(docker ps --quiet --filter health=healthy | wc -l)" -ge 4
curl --fail --silent --max-time 5 --output /dev/null http://127.0.0.1/livez
/snap/bin/aws cloudwatch put-metric-data --region ${AWS::Region} --namespace Holdfast \\
  --metric-name ${AWS::StackName}-answers --value 1
SH
chmod +x /usr/local/bin/holdfast-answers
cd /etc/systemd/system
printf '[Service]\\nType=oneshot\\nExecStart=/usr/local/bin/holdfast-answers\\n' > holdfast-answers.service
printf '[Timer]\\nOnCalendar=minutely\\n[Install]\\nWantedBy=timers.target\\n' > holdfast-answers.timer
systemctl enable --now holdfast holdfast-answers.timer
""".replace("AGENT", AGENT)


class HostStack(Stack):
    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name, **by_cloudformation_alone("Holdfast: one host with containers"))
        self.parameters = HostParameters(self)
        logs.CfnLogGroup(self, "Log", retention_in_days=KEEP_LOGS_DAYS)
        template = self._template()
        instance = ec2.CfnInstance(
            self,
            "Instance",
            launch_template={
                "launchTemplateId": template.ref,
                "version": template.attr_latest_version_number,
            },
            subnet_id=published(self.parameters.network, "PublicSubnetA"),
            monitoring=True,  # as the template says, where cdk-nag does not look
        )
        address = ec2.CfnEIP(self, "Address", instance_id=instance.ref)
        publish(self, {"InstanceId": instance.ref, "PublicAddress": address.attr_public_ip})

    def _template(self) -> ec2.CfnLaunchTemplate:
        parameters = self.parameters
        profile = iam.CfnInstanceProfile(self, "Profile", roles=[self._role().ref])
        return ec2.CfnLaunchTemplate(
            self,
            "Template",
            launch_template_data={
                "imageId": parameters.image,
                "instanceType": parameters.instance_type,
                "iamInstanceProfile": {"arn": profile.attr_arn},
                "securityGroupIds": [published(parameters.network, "HostSecurityGroup")],
                # Two hops: one to the machine, one to the container.
                "metadataOptions": {"httpTokens": "required", "httpPutResponseHopLimit": 2},
                "monitoring": {"enabled": True},
                "blockDeviceMappings": [
                    {
                        "deviceName": "/dev/sda1",
                        "ebs": {"encrypted": True, "volumeType": "gp3", "volumeSize": DISK_GIB},
                    }
                ],
                "userData": Fn.base64(Fn.sub(START)),
            },
        )

    def _role(self) -> iam.CfnRole:
        parameters = self.parameters
        rights = policies.host(
            resource_id=published(parameters.data, "ResourceId"),
            secret_arns=[published(parameters.data, f"{name}SecretArn") for name in ("RedisUrl", "CursorKey")],
            parameters=[
                f"arn:{Aws.PARTITION}:ssm:{Aws.REGION}:{Aws.ACCOUNT_ID}:parameter/{stack}"
                for stack in (parameters.data, parameters.storage, parameters.backup)
            ],
            code_bucket=parameters.code_bucket,
        )
        return iam.CfnRole(
            self,
            "HostRole",
            assume_role_policy_document=policies.assumed_by("ec2.amazonaws.com"),
            policies=[iam.CfnRole.PolicyProperty(policy_name="Rights", policy_document=policies.document(*rights))],
            managed_policy_arns=[
                policies.managed("AmazonSSMManagedInstanceCore"),
                policies.managed("CloudWatchAgentServerPolicy"),
                published(parameters.storage, "NotesApiPolicyArn"),
                published(parameters.backup, "SchedulerPolicyArn"),
                published(parameters.backup, "ConsolePolicyArn"),
            ],
        )

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)
