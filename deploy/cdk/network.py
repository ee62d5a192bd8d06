"""The network stack: a VPC over two zones, without NAT, and who may reach whom in it.

What is reached from outside, or fetches images, is in the public subnets, behind security groups. Databases and the
worker function are in the private ones, from which no route leads out: AWS's own services are reached by endpoints.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Aws, CfnCondition, CfnElement, CfnTag, Fn, Stack
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from deploy.cdk import policies
from deploy.cdk.parameters import ZONES, NetworkParameters, publish, short_name
from deploy.cdk.stacks import by_cloudformation_alone

HTTP, HTTPS, SERVICE, POSTGRESQL, REDIS = 80, 443, 8000, 5432, 6379  # ports
ANYWHERE = "0.0.0.0/0"
KEEP_FLOWS_DAYS = 30


class NetworkStack(Stack):
    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name, **by_cloudformation_alone("Holdfast: its network"))
        self.parameters = NetworkParameters(self)
        self.vpc = ec2.CfnVPC(
            self,
            "Vpc",
            cidr_block=self.parameters.cidr,
            enable_dns_hostnames=True,
            enable_dns_support=True,
            tags=[_named(Aws.STACK_NAME)],
        )
        self._flow_logs()
        public, private = self._subnets()
        groups = self._security_groups()
        self._endpoints(private, groups["Endpoints"])
        values = {"VpcId": self.vpc.ref}
        values |= {f"PublicSubnet{zone}": subnet.ref for zone, subnet in public.items()}
        values |= {f"PrivateSubnet{zone}": subnet.ref for zone, subnet in private.items()}
        values |= {f"{name}SecurityGroup": group.attr_group_id for name, group in groups.items() if name != "Endpoints"}
        publish(self, values)

    def _flow_logs(self) -> None:
        log = logs.CfnLogGroup(self, "FlowLog", retention_in_days=KEEP_FLOWS_DAYS)
        rights = policies.document(*policies.flow_logs(log.attr_arn))
        role = iam.CfnRole(
            self,
            "FlowLogRole",
            assume_role_policy_document=policies.assumed_by("vpc-flow-logs.amazonaws.com"),
            policies=[iam.CfnRole.PolicyProperty(policy_name="Rights", policy_document=rights)],
        )
        ec2.CfnFlowLog(
            self,
            "Flows",
            resource_id=self.vpc.ref,
            resource_type="VPC",
            traffic_type="REJECT",  # of what is let through, the services have logs of their own
            deliver_logs_permission_arn=role.attr_arn,
            log_group_name=log.ref,
        )

    def _subnets(self) -> tuple[dict[str, ec2.CfnSubnet], dict[str, ec2.CfnSubnet]]:
        blocks = Fn.cidr(self.vpc.attr_cidr_block, 2 * len(ZONES), "12")  # 4,096 addresses each
        gateway = ec2.CfnInternetGateway(self, "InternetGateway")
        attached = ec2.CfnVPCGatewayAttachment(
            self, "InternetGatewayAttachment", vpc_id=self.vpc.ref, internet_gateway_id=gateway.ref
        )
        tables = {kind: ec2.CfnRouteTable(self, f"{kind}Routes", vpc_id=self.vpc.ref) for kind in ("Public", "Private")}
        out = ec2.CfnRoute(
            self,
            "WayOut",
            route_table_id=tables["Public"].ref,
            destination_cidr_block=ANYWHERE,
            gateway_id=gateway.ref,
        )
        out.add_resource_dependency(attached)
        ec2.CfnVPCEndpoint(
            self,
            "S3Endpoint",  # a gateway's: it costs nothing
            vpc_id=self.vpc.ref,
            service_name=f"com.amazonaws.{Aws.REGION}.s3",
            route_table_ids=[table.ref for table in tables.values()],
        )

        def subnet(kind: str, zone: str) -> ec2.CfnSubnet:
            number = ZONES.index(zone)
            made = ec2.CfnSubnet(
                self,
                f"{kind}{zone}",
                vpc_id=self.vpc.ref,
                cidr_block=Fn.select(number + (len(ZONES) if kind == "Private" else 0), blocks),
                availability_zone=Fn.select(number, Fn.get_azs()),
                map_public_ip_on_launch=False,  # who needs a public address asks for one
                tags=[_named(f"{Aws.STACK_NAME}-{kind.lower()}-{zone.lower()}")],
            )
            ec2.CfnSubnetRouteTableAssociation(
                self, f"{kind}{zone}Routes", subnet_id=made.ref, route_table_id=tables[kind].ref
            )
            return made

        public, private = ({zone: subnet(kind, zone) for zone in ZONES} for kind in ("Public", "Private"))
        return public, private

    def _security_groups(self) -> Mapping[str, ec2.CfnSecurityGroup]:
        made: dict[str, ec2.CfnSecurityGroup] = {}

        def group(name: str, description: str, *, may_call: bool = True, **let_in: Sequence[Any]) -> None:
            """`let_in` gives the ports that each of some groups, or anybody, may reach."""
            rules = [
                ec2.CfnSecurityGroup.IngressProperty(
                    ip_protocol="tcp",
                    from_port=port,
                    to_port=port,
                    description=f"{who} to port {port}",
                    **(
                        {"cidr_ip": ANYWHERE}
                        if who == "Anybody"
                        else {"source_security_group_id": made[who].attr_group_id}
                    ),
                )
                for who, ports in let_in.items()
                for port in ports
            ]
            made[name] = ec2.CfnSecurityGroup(
                self,
                f"{name}Group",
                vpc_id=self.vpc.ref,
                group_description=description,
                security_group_ingress=rules or None,
                # A group without any rule for what goes out would let everything out.
                security_group_egress=None if may_call else [_NOWHERE],
            )

        group("Worker", "Makes backups")
        group("Balancer", "The load balancer of the services on ECS", Anybody=[HTTP, HTTPS])
        group("Host", "The one host with containers", Anybody=[HTTP, HTTPS])
        group("Service", "Services on ECS", Balancer=[SERVICE])
        asks = {name: [POSTGRESQL] for name in ("Worker", "Host", "Service")}
        group("Database", "PostgreSQL", may_call=False, **asks)
        group("Cache", "Valkey", may_call=False, Host=[REDIS], Service=[REDIS])
        group("Endpoints", "Services of AWS, seen from the private subnets", may_call=False, Worker=[HTTPS])
        return made

    def _endpoints(self, private: Mapping[str, ec2.CfnSubnet], group: ec2.CfnSecurityGroup) -> None:
        """What the worker function calls; each costs money by the hour and zone."""
        wanted: dict[str, tuple[str, CfnCondition | None]] = {
            "Sns": ("sns", None),
            "Kms": ("kms", self.parameters.uses_kms),
            "Secrets": ("secretsmanager", self.parameters.reads_secrets),
            "Ecs": ("ecs", self.parameters.runs_tasks),
        }
        for name, (service, condition) in wanted.items():
            endpoint = ec2.CfnVPCEndpoint(
                self,
                f"{name}Endpoint",
                vpc_id=self.vpc.ref,
                vpc_endpoint_type="Interface",
                service_name=f"com.amazonaws.{Aws.REGION}.{service}",
                subnet_ids=[subnet.ref for subnet in private.values()],
                security_group_ids=[group.attr_group_id],
                private_dns_enabled=True,
            )
            if condition:
                endpoint.cfn_options.condition = condition

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)


_NOWHERE = ec2.CfnSecurityGroup.EgressProperty(ip_protocol="-1", cidr_ip="127.0.0.1/32", description="nowhere")


def _named(name: str) -> CfnTag:
    return CfnTag(key="Name", value=name)
