"""Reads a deployment back from AWS's own APIs and compares it with what terraform/README.md promises.

Nothing here asks Terraform: names and figures are written out, so that a change of the module that breaks a promise is
seen, and one that changes a promise is made in both places.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

Check = Callable[[str, object, object], None]
"""Takes what is compared, what was found, what was promised."""

NAME = "s3nsync"
QUEUES = {
    "live": f"{NAME}.fifo",
    "bulk": f"{NAME}-bulk.fifo",
    "check": f"{NAME}-check.fifo",
    "dead": f"{NAME}-dead.fifo",
    "failure": f"{NAME}-failure",
}
ALARMS = {
    *(f"{NAME}-{alarm}" for alarm in ("dead-letters", "dead-letters-expiring", "oldest-message", "lag", "no-progress")),
    *(f"{NAME}-{alarm}" for alarm in ("intake-errors", "intake-failures", "no-worker", "scale-out", "scale-in")),
}
VERIFY_ALARMS = {f"{NAME}-verify-differences", f"{NAME}-verify-missing"}


def client(aws: boto3.Session, url: str, service_name: str, region: str | None = None) -> Any:
    """Give a client of a service at the stand-in."""
    return aws.client(service_name, endpoint_url=url, region_name=region)  # type: ignore[call-overload]  # any name


@dataclass(frozen=True)
class Deployment:
    """What was applied, and where to ask for it."""

    aws: boto3.Session
    url: str
    outputs: Mapping[str, Any]

    def client(self, service: str) -> Any:
        """Give a client of a service."""
        return client(self.aws, self.url, service)

    @property
    def account(self) -> str:
        """Give the account's number."""
        return str(self.client("sts").get_caller_identity()["Account"])

    def arn(self, service: str, rest: str) -> str:
        """Give an ARN in this account and region."""
        return f"arn:aws:{service}:{self.aws.region_name}:{self.account}:{rest}"


def deployed(
    made: Deployment,
    check: Check,
    *,
    bucket: str,
    table: str,
    key: str,
    secret_version: int = 1,
    eventbridge: bool = False,
    spot: bool = False,
    verify_hours: int = 0,
) -> None:
    """Compare every part of a deployment of one bucket with the promises."""
    queues(made, check, eventbridge=eventbridge)
    function(made, check, bucket=bucket)
    events(made, check, bucket=bucket, eventbridge=eventbridge)
    secret(made, check, key=key)
    network(made, check, table=table)
    registry(made, check)
    service(made, check, spot=spot, secret_version=secret_version)
    scaling(made, check)
    policies(made, check, eventbridge=eventbridge)
    operations(made, check, verifies=bool(verify_hours))
    verify(made, check, every_hours=verify_hours)
    encryption(made, check)


def queues(made: Deployment, check: Check, *, eventbridge: bool) -> None:
    """Compare three FIFO queues by key, one FIFO dead-letter queue, one standard queue."""
    sqs = made.client("sqs")
    for queue, name in QUEUES.items():
        url = made.outputs["queue_urls"][queue]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        check(f"{queue}: its name", url.rsplit("/", 1)[1], name)
        check(f"{queue}: kept for 14 days", found["MessageRetentionPeriod"], "1209600")
        check(f"{queue}: encrypted with the deployment's key", found["KmsMasterKeyId"], made.outputs["kms_key_arn"])
        statements = {each["Sid"]: each for each in json.loads(found["Policy"])["Statement"]}
        tls = statements.pop("OnlyOverTls")
        check(f"{queue}: only over TLS", (tls["Effect"], tls["Principal"]), ("Deny", "*"))
        check(f"{queue}: on that condition", tls["Condition"], {"Bool": {"aws:SecureTransport": "false"}})
        open_to = {"DeadLettersOfEventBridge"} if eventbridge and queue == "failure" else set()
        check(f"{queue}: open to nobody else", set(statements), open_to)
        if queue == "failure":
            check(
                "failure: standard, six time-outs hidden",
                ("FifoQueue" in found, found["VisibilityTimeout"]),
                (False, "360"),
            )
            continue
        check(f"{queue}: FIFO", found["FifoQueue"], "true")
        throughput = (found["DeduplicationScope"], found["FifoThroughputLimit"])
        check(f"{queue}: high throughput", throughput, ("messageGroup", "perMessageGroupId"))
        check(f"{queue}: a lease of 300 s", found["VisibilityTimeout"], "300")
        check(f"{queue}: delay", found["DelaySeconds"], "180" if queue == "check" else "0")
        if queue == "dead":
            allowed = json.loads(found["RedriveAllowPolicy"])
            sources = {made.arn("sqs", QUEUES[each]) for each in ("live", "bulk", "check")}
            check(
                "dead: for these three",
                (allowed["redrivePermission"], set(allowed["sourceQueueArns"])),
                ("byQueue", sources),
            )
        else:
            redrive = json.loads(found["RedrivePolicy"])
            wanted = {"deadLetterTargetArn": made.arn("sqs", QUEUES["dead"]), "maxReceiveCount": 300}
            check(f"{queue}: redrive", redrive, wanted)


def function(made: Deployment, check: Check, *, bucket: str) -> None:
    """Compare the intake function and what becomes of its failures."""
    client = made.client("lambda")
    found = client.get_function_configuration(FunctionName=f"{NAME}-intake")
    check("function: runtime", (found["Runtime"], found["Architectures"]), ("python3.13", ["arm64"]))
    check("function: handler", found["Handler"], "s3nsync.intake.handler")
    check("function: size", (found["MemorySize"], found["Timeout"]), (256, 60))
    environment = found["Environment"]["Variables"]
    wanted = {"QUEUE_URL", "S3NSYNC_ROUTES", "S3NSYNC_DEAD_QUEUE_URL", "S3NSYNC_FAILURE_QUEUE_URL"}
    check("function: environment", set(environment), wanted)
    check("function: queue", environment["QUEUE_URL"], made.outputs["queue_urls"]["live"])
    check("function: routes", json.loads(environment["S3NSYNC_ROUTES"]), [{"bucket": bucket, "cpcode": "123456"}])
    logging = (found["LoggingConfig"]["LogFormat"], found["LoggingConfig"]["LogGroup"])
    check("function: logs JSON", logging, ("JSON", f"/aws/lambda/{NAME}-intake"))
    retries = client.get_function_event_invoke_config(FunctionName=f"{NAME}-intake")
    tries = (retries["MaximumRetryAttempts"], retries["MaximumEventAgeInSeconds"])
    check("function: retries", tries, (2, 21600))
    destination = retries["DestinationConfig"]["OnFailure"]["Destination"]
    check("function: failures are kept", destination, made.arn("sqs", QUEUES["failure"]))
    rules = made.client("events")
    drain = rules.describe_rule(Name=f"{NAME}-drain-failures")
    check(
        "function: empties its failures", (drain["ScheduleExpression"], drain["State"]), ("rate(5 minutes)", "ENABLED")
    )
    targets = rules.list_targets_by_rule(Rule=f"{NAME}-drain-failures")["Targets"]
    check("function: by itself", [each["Arn"] for each in targets], [found["FunctionArn"]])


def events(made: Deployment, check: Check, *, bucket: str, eventbridge: bool) -> None:
    """Compare who calls: the bucket, or EventBridge."""
    settings = made.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    settings.pop("ResponseMetadata")
    calls = settings.get("LambdaFunctionConfigurations", [])
    check("bucket: EventBridge", "EventBridgeConfiguration" in settings, eventbridge)
    check("bucket: calls", len(calls), 0 if eventbridge else 1)
    for call in calls:
        check("bucket: calls the function", call["LambdaFunctionArn"], made.outputs["function_arn"])
        kinds = ["s3:LifecycleExpiration:*", "s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectRestore:Completed"]
        check("bucket: with four kinds of events", sorted(call["Events"]), kinds)
    policy = json.loads(made.client("lambda").get_policy(FunctionName=f"{NAME}-intake")["Policy"])
    callers = sorted(each["Principal"]["Service"] for each in policy["Statement"])
    check(
        "function: callers",
        callers,
        ["events.amazonaws.com", "events.amazonaws.com" if eventbridge else "s3.amazonaws.com"],
    )
    rules = made.client("events").list_rules(NamePrefix=f"{NAME}-s3-")["Rules"]
    check("rules", len(rules), 1 if eventbridge else 0)
    for rule in rules:
        pattern = json.loads(rule["EventPattern"])
        check("rule: bucket", pattern["detail"]["bucket"], {"name": [bucket]})
        target = made.client("events").list_targets_by_rule(Rule=rule["Name"])["Targets"][0]
        check("rule: dead letters", target["DeadLetterConfig"], {"Arn": made.arn("sqs", QUEUES["failure"])})


def secret(made: Deployment, check: Check, *, key: str) -> None:
    """Compare the NetStorage account: written and encrypted."""
    client = made.client("secretsmanager")
    found = client.describe_secret(SecretId=f"{NAME}/netstorage")
    check("secret: encrypted with the deployment's key", found["KmsKeyId"], made.outputs["kms_key_arn"])
    value = json.loads(client.get_secret_value(SecretId=f"{NAME}/netstorage")["SecretString"])
    check("secret: value", value, {"NS_HOSTNAME": "example-nsu.akamaihd.net", "NS_USER": "upload", "NS_KEY": key})


def network(made: Deployment, check: Check, *, table: str) -> None:
    """Compare two private subnets behind the NAT, an endpoint for S3, HTTPS out and nothing in."""
    ec2 = made.client("ec2")
    subnets = ec2.describe_subnets(SubnetIds=made.outputs["subnet_ids"])["Subnets"]
    check(
        "subnets: the two highest free ranges",
        sorted(each["CidrBlock"] for each in subnets),
        ["172.31.254.0/24", "172.31.255.0/24"],
    )
    check("subnets: in two zones", len({each["AvailabilityZone"] for each in subnets}), 2)
    check("subnets: private", {each["MapPublicIpOnLaunch"] for each in subnets}, {False})
    routes = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]
    associated = {each["SubnetId"] for each in routes["Associations"] if "SubnetId" in each}
    check("subnets: behind the NAT", associated, set(made.outputs["subnet_ids"]))
    endpoints = [
        (each["VpcEndpointType"], each["RouteTableIds"])
        for each in ec2.describe_vpc_endpoints()["VpcEndpoints"]
        if each["ServiceName"] == f"com.amazonaws.{made.aws.region_name}.s3"
    ]
    check("endpoint: S3 past the NAT", endpoints, [("Gateway", [table])])
    group = ec2.describe_security_groups(GroupIds=[made.outputs["security_group_id"]])["SecurityGroups"][0]
    check("security group: nothing in", group["IpPermissions"], [])
    out = [(each["IpProtocol"], each.get("FromPort"), each.get("ToPort")) for each in group["IpPermissionsEgress"]]
    check("security group: HTTPS out", out, [("tcp", 443, 443)])


def registry(made: Deployment, check: Check) -> None:
    """Compare the image repository."""
    found = made.client("ecr").describe_repositories(repositoryNames=[NAME])["repositories"][0]
    check("repository: tags keep their meaning", found["imageTagMutability"], "IMMUTABLE")
    check("repository: scanned", found["imageScanningConfiguration"], {"scanOnPush": True})
    check("repository: encrypted", found["encryptionConfiguration"]["kmsKey"], made.outputs["kms_key_arn"])
    rules = json.loads(made.client("ecr").get_lifecycle_policy(repositoryName=NAME)["lifecyclePolicyText"])["rules"]
    check("repository: keeps ten", rules[0]["selection"]["countNumber"], 10)


def service(made: Deployment, check: Check, *, spot: bool, secret_version: int) -> None:
    """Compare cluster, service and task."""
    ecs = made.client("ecs")
    cluster = ecs.describe_clusters(clusters=[NAME], include=["SETTINGS"])["clusters"][0]
    check("cluster: insights", cluster["settings"], [{"name": "containerInsights", "value": "enabled"}])
    found = ecs.describe_services(cluster=NAME, services=[NAME])["services"][0]
    provider = "FARGATE_SPOT" if spot else "FARGATE"
    check("service: provider", found["capacityProviderStrategy"][0]["capacityProvider"], provider)
    place = found["networkConfiguration"]["awsvpcConfiguration"]
    check(
        "service: private",
        (set(place["subnets"]), place["assignPublicIp"]),
        (set(made.outputs["subnet_ids"]), "DISABLED"),
    )
    breaker = found["deploymentConfiguration"]["deploymentCircuitBreaker"]
    check("service: circuit breaker", (breaker["enable"], breaker["rollback"]), (True, True))
    task = ecs.describe_task_definition(taskDefinition=found["taskDefinition"])["taskDefinition"]
    check("task: size", (task["cpu"], task["memory"]), ("512", "1024"))
    platform = {"cpuArchitecture": "ARM64", "operatingSystemFamily": "LINUX"}
    check("task: platform", task["runtimePlatform"], platform)
    check(
        "task: roles",
        (task["taskRoleArn"], task["executionRoleArn"]),
        (made.outputs["role_arns"]["worker"], made.outputs["role_arns"]["execution"]),
    )
    worker = task["containerDefinitions"][0]
    check("worker: image", worker["image"], made.outputs["image"])
    check("worker: command", worker["command"], ["run"])
    check("worker: confined", (worker["user"], worker["readonlyRootFilesystem"]), ("10001:10001", True))
    check("worker: no capabilities", worker["linuxParameters"]["capabilities"]["drop"], ["ALL"])
    check("worker: time to stop", worker["stopTimeout"], 120)
    check("worker: health", worker["healthCheck"]["command"], ["CMD", "python3", "-m", "s3nsync.health"])
    check(
        "worker: the secret by reference",
        worker["secrets"],
        [{"name": "NS_SECRET", "valueFrom": made.outputs["secret_arns"]["default"]}],
    )
    labels = {"s3nsync.secret-version": str(secret_version)}
    check("worker: a new secret makes a new revision", worker["dockerLabels"], labels)
    environment = {each["name"]: each["value"] for each in worker["environment"]}
    check("worker: environment", environment, made.outputs["worker_environment"])
    for queue in ("live", "bulk", "check", "dead"):
        check(f"worker: {queue}", environment[f"S3NSYNC_{queue.upper()}_QUEUE_URL"], made.outputs["queue_urls"][queue])
    check("worker: grace", environment["S3NSYNC_WORKER_GRACE_S"], "180")
    check("worker: lease", environment["S3NSYNC_WORKER_LEASE_S"], "300")


def scaling(made: Deployment, check: Check) -> None:
    """Compare one to ten tasks, out by backlog, in at rest only."""
    client = made.client("application-autoscaling")
    target = client.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"][0]
    check("scaling: bounds", (target["MinCapacity"], target["MaxCapacity"]), (1, 10))
    policies = {
        each["PolicyName"]: each for each in client.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]
    }
    check("scaling: policies", set(policies), {f"{NAME}-burst", f"{NAME}-backlog-per-task", f"{NAME}-rest"})
    tracking = policies[f"{NAME}-backlog-per-task"]["TargetTrackingScalingPolicyConfiguration"]
    check("scaling: target", (tracking["TargetValue"], tracking["DisableScaleIn"]), (500.0, True))
    rest = policies[f"{NAME}-rest"]["StepScalingPolicyConfiguration"]
    check(
        "scaling: to the minimum",
        (rest["AdjustmentType"], rest["StepAdjustments"][0]["ScalingAdjustment"]),
        ("ExactCapacity", 1),
    )
    alarms = _alarms(made)
    for alarm, policy in (("scale-out", "burst"), ("scale-in", "rest")):
        actions = alarms[f"{NAME}-{alarm}"]["AlarmActions"]
        check(f"scaling: {alarm} acts", actions, [policies[f"{NAME}-{policy}"]["PolicyARN"]])
    asked = {each["Id"] for each in alarms[f"{NAME}-scale-in"]["Metrics"]}
    inflight = {f"{queue}_{what}" for queue in ("live", "bulk", "check") for what in ("waiting", "inflight")}
    check("scaling: in only with nothing waiting or in flight", asked, inflight | {"outstanding"})


def policies(made: Deployment, check: Check, *, eventbridge: bool) -> None:
    """Compare every policy that AWS holds with policies.json, which test_permissions.py judges."""
    judged = json.loads(Path(__file__).with_name("policies.json").read_text())
    wanted = judged["eventbridge" if eventbridge else "defaults"]
    for kind, documents in _policies(made).items():
        check(f"policies of {kind}: all are judged", sorted(documents), sorted(wanted[kind]))
        for name, document in documents.items():
            check(f"policy of {name}", _in_order(document), _in_order(wanted[kind].get(name)))


def _policies(made: Deployment) -> dict[str, dict[str, Any]]:
    """Ask for the policies of roles, queues, key and function; made-up names become those of policies.json."""
    iam = made.client("iam")
    role, trust = {"operator": json.loads(made.outputs["operator_policy"])}, {}
    for job in made.outputs["role_arns"]:
        name = f"{NAME}-{made.aws.region_name}-{job}"
        attached = [each["PolicyArn"] for each in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]]
        if len(attached) != 1 or iam.list_role_policies(RoleName=name)["PolicyNames"]:
            raise AssertionError(f"{job}: one policy and none inline, not {attached}")
        version = iam.get_policy(PolicyArn=attached[0])["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=attached[0], VersionId=version)
        role[job] = found["PolicyVersion"]["Document"]
        trust[job] = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    key, function = made.outputs["kms_key_arn"], made.outputs["function_arn"]
    resource = {
        key: made.client("kms").get_key_policy(KeyId=key, PolicyName="default")["Policy"],
        function: made.client("lambda").get_policy(FunctionName=f"{NAME}-intake")["Policy"],
        **{made.arn("sqs", name): _queue_policy(made, queue) for queue, name in QUEUES.items()},
    }
    text = json.dumps(
        {"role": role, "trust": trust, "resource": {arn: json.loads(each) for arn, each in resource.items()}}
    )
    rules = made.client("events").list_rules(NamePrefix=f"{NAME}-s3-")["Rules"]
    made_up = {
        key: made.arn("kms", "key/own"),
        made.outputs["secret_arns"]["default"]: made.arn("secretsmanager", f"secret:{NAME}/netstorage-AbCdEf"),
        **{each["Arn"]: made.arn("events", f"rule/{NAME}-s3-a4e1d1f1") for each in rules},
    }
    for name, word in made_up.items():
        text = text.replace(name, word)
    found_by_kind: dict[str, dict[str, Any]] = json.loads(text)
    return found_by_kind


def _queue_policy(made: Deployment, queue: str) -> str:
    asked = {"QueueUrl": made.outputs["queue_urls"][queue], "AttributeNames": ["Policy"]}
    return str(made.client("sqs").get_queue_attributes(**asked)["Attributes"]["Policy"])


def _in_order(document: Any) -> Any:
    """Bring a policy into the form in which two that mean the same are equal: one value or many, in any order."""
    if isinstance(document, dict):
        plain = {name: _in_order(value) for name, value in document.items() if name != "Id"}
        return {name: [value] if isinstance(value, str) else value for name, value in plain.items()}
    if isinstance(document, list):
        return sorted((_in_order(each) for each in document), key=lambda each: json.dumps(each, sort_keys=True))
    return document


def operations(made: Deployment, check: Check, *, verifies: bool) -> None:
    """Compare logs, alarms, topic and dashboard."""
    groups = {each["logGroupName"]: each for each in made.client("logs").describe_log_groups()["logGroups"]}
    for name in (f"/aws/lambda/{NAME}-intake", f"/ecs/{NAME}"):
        kept = (groups[name].get("retentionInDays"), groups[name].get("kmsKeyId"))
        check(f"{name}: 30 days, encrypted", kept, (30, made.outputs["kms_key_arn"]))
    alarms = _alarms(made)
    wanted = ALARMS | (VERIFY_ALARMS if verifies else set())
    check("alarms", set(alarms), wanted)
    topic = made.arn("sns", f"{NAME}-alarms")
    for name in wanted - {f"{NAME}-scale-out", f"{NAME}-scale-in"}:
        check(f"{name}: tells", (alarms[name]["AlarmActions"], alarms[name]["OKActions"]), ([topic], [topic]))
    lag = alarms[f"{NAME}-lag"]
    check(
        "lag: 99.9 % within 60 s",
        (lag["ExtendedStatistic"], lag["Threshold"], lag["MetricName"]),
        ("p99.9", 60.0, "lag_s"),
    )
    attributes = made.client("sns").get_topic_attributes(TopicArn=topic)["Attributes"]
    check("topic: encrypted", attributes["KmsMasterKeyId"], made.outputs["kms_key_arn"])
    board = json.loads(
        made.client("cloudwatch").get_dashboard(DashboardName=f"{NAME}-{made.aws.region_name}")["DashboardBody"]
    )
    check("dashboard: panels", len(board["widgets"]), 9 if verifies else 7)


def verify(made: Deployment, check: Check, *, every_hours: int) -> None:
    """Compare the schedule and what it starts; 0 hours: there is none."""
    scheduler = made.client("scheduler")
    schedules = [each["Name"] for each in scheduler.list_schedules()["Schedules"]]
    check("verify: schedules", schedules, [f"{NAME}-verify"] if every_hours else [])
    roles = {each["RoleName"].removeprefix(f"{NAME}-{made.aws.region_name}-") for each in _roles(made)}
    check("verify: roles", roles & {"verify", "scheduler"}, {"verify", "scheduler"} if every_hours else set())
    if not every_hours:
        return
    found = scheduler.get_schedule(Name=f"{NAME}-verify")
    check("verify: how often", found["ScheduleExpression"], f"rate({every_hours} hours)")
    target = found["Target"]
    check("verify: as whom", target["RoleArn"], made.outputs["role_arns"]["scheduler"])
    check("verify: in the cluster", target["Arn"], made.arn("ecs", f"cluster/{NAME}"))
    parameters = target["EcsParameters"]
    place = parameters["NetworkConfiguration"]["awsvpcConfiguration"]
    check("verify: private", place["AssignPublicIp"], "DISABLED")
    check("verify: in the subnets", set(place["Subnets"]), set(made.outputs["subnet_ids"]))
    asked = {"taskDefinition": parameters["TaskDefinitionArn"]}
    task = made.client("ecs").describe_task_definition(**asked)["taskDefinition"]
    check("verify: family", task["family"], f"{NAME}-verify")
    check(
        "verify: the task's roles",
        (task["taskRoleArn"], task["executionRoleArn"]),
        (made.outputs["role_arns"]["verify"], made.outputs["role_arns"]["execution"]),
    )
    container = task["containerDefinitions"][0]
    check("verify: command", container["command"], ["verify", "--json"])
    check("verify: image", container["image"], made.outputs["image"])
    check("verify: no health to ask for", container.get("healthCheck"), None)
    environment = {each["name"]: each["value"] for each in container["environment"]}
    check("verify: the worker's settings", environment, made.outputs["worker_environment"])
    check("verify: the worker's secrets", [each["name"] for each in container["secrets"]], ["NS_SECRET"])


def _roles(made: Deployment) -> list[Any]:
    return list(made.client("iam").list_roles()["Roles"])


def _alarms(made: Deployment) -> dict[str, Any]:
    """Give the alarms, but for those that target tracking makes and removes by itself."""
    found = made.client("cloudwatch").describe_alarms()["MetricAlarms"]
    return {each["AlarmName"]: each for each in found if not each["AlarmName"].startswith("TargetTracking-")}


def encryption(made: Deployment, check: Check) -> None:
    """Compare the key: rotated, and for this deployment's services only."""
    kms = made.client("kms")
    key = made.outputs["kms_key_arn"]
    check("key: rotated", kms.get_key_rotation_status(KeyId=key)["KeyRotationEnabled"], True)  # noqa: FBT003 - what is wanted
    policy = json.loads(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    check(
        "key: statements",
        [each["Sid"] for each in policy["Statement"]],
        ["TheAccountsOwnPoliciesDecide", "LogGroups", "AlarmsAndDeadLetters"],
    )


# --- what is left ----------------------------------------------------------------------------------------------


def leftovers(aws: boto3.Session, url: str) -> set[str]:
    """Name everything that the module could have made and that is there now."""

    def ask(service_name: str) -> Any:
        return client(aws, url, service_name)

    ec2 = ask("ec2")
    keys = [ask("kms").describe_key(KeyId=each["KeyId"])["KeyMetadata"] for each in ask("kms").list_keys()["Keys"]]
    found = {
        "queue": ask("sqs").list_queues().get("QueueUrls", []),
        "function": [each["FunctionName"] for each in ask("lambda").list_functions()["Functions"]],
        "rule": [each["Name"] for each in ask("events").list_rules()["Rules"]],
        "secret": [each["Name"] for each in ask("secretsmanager").list_secrets()["SecretList"]],
        "role": [each["RoleName"] for each in ask("iam").list_roles()["Roles"]],
        "policy": [each["PolicyName"] for each in ask("iam").list_policies(Scope="Local")["Policies"]],
        "log group": [each["logGroupName"] for each in ask("logs").describe_log_groups()["logGroups"]],
        "alarm": [each["AlarmName"] for each in ask("cloudwatch").describe_alarms()["MetricAlarms"]],
        "dashboard": [each["DashboardName"] for each in ask("cloudwatch").list_dashboards()["DashboardEntries"]],
        "schedule": [each["Name"] for each in ask("scheduler").list_schedules()["Schedules"]],
        "topic": [each["TopicArn"] for each in ask("sns").list_topics()["Topics"]],
        "repository": [each["repositoryName"] for each in ask("ecr").describe_repositories()["repositories"]],
        "cluster": [
            each["clusterName"]
            for each in ask("ecs").describe_clusters(clusters=ask("ecs").list_clusters()["clusterArns"])["clusters"]
            if each["status"] == "ACTIVE"
        ],
        "task definition": ask("ecs").list_task_definitions(status="ACTIVE")["taskDefinitionArns"],
        "scaling": [
            each["ResourceId"]
            for each in ask("application-autoscaling").describe_scalable_targets(ServiceNamespace="ecs")[
                "ScalableTargets"
            ]
        ],
        "key": [each["KeyId"] for each in keys if each["KeyState"] != "PendingDeletion"],
        "subnet": [each["SubnetId"] for each in ec2.describe_subnets()["Subnets"]],
        "security group": [each["GroupId"] for each in ec2.describe_security_groups()["SecurityGroups"]],
        "endpoint": [
            each["VpcEndpointId"]
            for each in ec2.describe_vpc_endpoints()["VpcEndpoints"]
            if each["State"].lower() != "deleted"  # AWS stops listing them, the stand-in never does
        ],
    }
    return {f"{kind} {name}" for kind, names in found.items() for name in names}
