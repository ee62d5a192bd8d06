"""The cluster stack: what the services on ECS share, a cluster and a load balancer with TLS."""

from aws_cdk import CfnElement, Stack
from aws_cdk import aws_ecs as ecs
from aws_cdk import aws_elasticloadbalancingv2 as elb
from constructs import Construct

from deploy.cdk.parameters import ZONES, ClusterParameters, publish, published, short_name
from deploy.cdk.stacks import by_cloudformation_alone

TLS = "ELBSecurityPolicy-TLS13-1-2-2021-06"
NOT_FOUND = '{"type":"/problems/not-found","title":"There is nothing here.","status":404}'


class ClusterStack(Stack):
    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name, **by_cloudformation_alone("Holdfast: what its services on ECS share"))
        self.parameters = ClusterParameters(self)
        cluster = ecs.CfnCluster(
            self,
            "Cluster",
            cluster_settings=[ecs.CfnCluster.ClusterSettingsProperty(name="containerInsights", value="enabled")],
        )
        balancer, listener = self._balancer()
        publish(
            self,
            {
                "ClusterName": cluster.ref,
                "ListenerArn": listener.ref,
                "BalancerName": balancer.attr_load_balancer_full_name,
                "BalancerAddress": balancer.attr_dns_name,
            },
        )

    def _balancer(self) -> tuple[elb.CfnLoadBalancer, elb.CfnListener]:
        network = self.parameters.network
        balancer = elb.CfnLoadBalancer(
            self,
            "Balancer",
            type="application",
            scheme="internet-facing",
            subnets=[published(network, f"PublicSubnet{zone}") for zone in ZONES],
            security_groups=[published(network, "BalancerSecurityGroup")],
            load_balancer_attributes=[
                {"key": "routing.http.drop_invalid_header_fields.enabled", "value": "true"},
                {"key": "idle_timeout.timeout_seconds", "value": "120"},  # an export may pause for as long
                {"key": "deletion_protection.enabled", "value": "true"},
            ],
        )
        listener = elb.CfnListener(
            self,
            "Listener",
            load_balancer_arn=balancer.ref,
            port=443,
            protocol="HTTPS",
            ssl_policy=TLS,
            certificates=[{"certificateArn": self.parameters.certificate}],
            # Only what a service has a rule for is public: neither /metrics nor /readyz is.
            default_actions=[
                {
                    "type": "fixed-response",
                    "fixedResponseConfig": {
                        "statusCode": "404",
                        "contentType": "application/json",
                        "messageBody": NOT_FOUND,
                    },
                }
            ],
        )
        elb.CfnListener(
            self,
            "ToTls",
            load_balancer_arn=balancer.ref,
            port=80,
            protocol="HTTP",
            default_actions=[
                {
                    "type": "redirect",
                    "redirectConfig": {"protocol": "HTTPS", "port": "443", "statusCode": "HTTP_301"},
                }
            ],
        )
        return balancer, listener

    def _allocate_logical_id(self, element: CfnElement) -> str:
        return short_name(element)
