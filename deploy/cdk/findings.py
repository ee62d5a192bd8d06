"""What cdk-nag (AwsSolutions) finds in the stacks, and why it stays. tests/cdk/test_nag.py compares: nothing is new.

A rule's name has what was found after it in brackets, where a rule finds several things.
"""

# Patterns of the rule and of the construct's path, and the reason. Each matches something, and everything is matched.
ACCEPTED: tuple[tuple[str, str, str], ...] = (
    (
        r"IAM5\[Resource::<Bucket\.Arn>/.*]",
        r"holdfast-(backup/(Api|Worker|Keeper|Task)Role(/Resource)?|backup/OpsPolicy|storage/NotesApiPolicy)",
        "What lies in the buckets has ids that are made later; each right is for named objects below them",
    ),
    (
        r"IAM5\[Resource::arn:.*:execute-api:.*/\*.*]",
        r"holdfast-backup/(Console|Ops|Scheduler)Policy",
        "Ids of backups, restores and rows are made later; each right is for one method and path",
    ),
    (
        r"IAM5\[Resource::arn:.*:ecr:.*:repository/holdfast/\*]",
        r"holdfast-(backup/TaskExecutionRole|notes-api/.*ExecutionRole|scheduler/.*ExecutionRole|host/HostRole)",
        "The data stack's own repositories, by the prefix that only they have",
    ),
    (
        r"IAM5\[Resource::\*]",
        r"holdfast-(backup|notes-api|scheduler|host)/.*Role(/Resource)?",
        "Actions that have no resource: reading and ending a subscription of SNS, a login to ECR, a segment of X-Ray,"
        " a network interface that is still to be made. docs/rights.md lists each",
    ),
    (
        r"IAM5\[Resource::arn:.*:(s3:::<CodeBucket>/host/\*|ecs:.*:task-definition/.*:\*|ssm:.*)]",
        r"holdfast-(host/HostRole|backup/WorkerRole/Resource)",
        "Versions of one thing: the host's bundles, the revisions of the worker's task, one stack's parameters",
    ),
    (
        r"IAM4\[Policy::.*/(AmazonAPIGatewayPushToCloudWatchLogs|AmazonRDSEnhancedMonitoringRole)]",
        r"holdfast-(backup/Gateway/CloudWatchRole/Resource|data/MonitoringRole)",
        "A service of AWS takes the role on, and AWS says in its own policy what that service needs",
    ),
    (
        r"IAM4\[Policy::.*/(AmazonSSMManagedInstanceCore|CloudWatchAgentServerPolicy)]",
        r"holdfast-host/HostRole",
        "AWS's own agents run on the host, and AWS says in its own policies what they need",
    ),
    (
        "COG4",
        r"holdfast-backup/Gateway/.*",
        "Callers are services and ops, with IAM and a signature; there are no users",
    ),
    (
        "APIG3",
        r"holdfast-backup/Gateway/.*",
        "Nothing reaches a function without a signature that IAM accepts; a firewall would see signed JSON only",
    ),
    ("L1", r"holdfast-backup/(Api|Worker|Keeper)/Resource", "Python 3.13 is the newest that all our tests run on"),
    (
        "SQS3",
        r"holdfast-backup/DeadLetters/Resource",
        "It is the queue of dead letters itself: of events, by a destination of Lambda, which the rule does not see",
    ),
    (
        "SNS3",
        r"holdfast-(backup|storage)/Topic/Resource",
        "OnlyOverTls in the topic's policy says so, unless RequireTls is false, which is for an emulator",
    ),
    (
        "S1",
        r"holdfast-(backup/Bucket|storage/Bucket|storage/StaticBucket)(/Resource)?",
        "S3's logs would know less than CloudTrail's data events, which whoever needs them turns on for the account",
    ),
    (
        "ECS2",
        r"holdfast-(backup/TaskDefinition|(data|notes-api|scheduler)/.*Definition)",
        "Names and addresses only: what is secret comes from Secrets Manager",
    ),
    (
        "EC23",
        r"holdfast-network/(Balancer|Host)Group",
        "They are what the public reaches: at the ports of HTTP, which only redirects, and HTTPS",
    ),
    (
        "EC29",
        r"holdfast-host/Instance",
        "Nothing on it must be kept, and one that refuses to end could not be replaced by a change of its template;"
        " its stack is protected",
    ),
    (
        "ELB2",
        r"holdfast-cluster/Balancer",
        "Each service writes a line for each request, with its id; the balancer's would be a second, an hour later",
    ),
    (
        "RDS3|AEC4",
        r"holdfast-data/(Database|ProofDatabase|Cache)",
        "A parameter says whether there is a standby in the other zone. The smallest size has none; proofs need none",
    ),
    (
        "RDS10|RDS13",
        r"holdfast-data/ProofDatabase",
        "It holds nothing but copies for as long as a proof takes",
    ),
    (
        "RDS11|AEC5",
        r"holdfast-data/(Database|ProofDatabase|Cache)",
        "Only four security groups reach it, whatever its port; another port would only hide it from people",
    ),
    (
        "SMG4",
        r"holdfast-data/(CacheToken|CursorKey|RedisUrl)",
        "To change them takes a restart of the services: docs/deploy.md says how",
    ),
    (
        "CFR.*",
        r"holdfast-storage/StaticDistribution",
        "Public files without a name of their own: no country is refused, no firewall is needed, and CloudFront's own"
        " certificate sets the least version of TLS",
    ),
    (
        "W2509",
        r"holdfast-network",
        "The parameter says whether secrets are read, and holds none",
    ),
)
