"""What must be allowed, and what must not: the other half of the proof that the policies are right.

Needed are the calls that our programs were seen to make (calls.json), what each of them implies, and what AWS does in
our names without a program of ours: `BEHIND_THE_SCENES`, written by hand, each with its reason. Everything else is
forbidden; `FORBIDDEN` names what would hurt most. Resources are words (a queue's name, `bucket`, `key`); `Place` says
what they are in each variant that policies.py renders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from terraform.iam import (
    NOTHING,
    Decision,
    Json,
    Policy,
    Principal,
    Request,
    decide,
    read_identity_policy,
    read_resource_policy,
)

REGION, ACCOUNT, STRANGER = "eu-central-1", "123456789012", "210987654321"
OWN_KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/own"
RULES = f"arn:aws:events:{REGION}:{ACCOUNT}:rule"
QUEUES = {
    "live": "s3nsync.fifo",
    "bulk": "s3nsync-bulk.fifo",
    "check": "s3nsync-check.fifo",
    "dead": "s3nsync-dead.fifo",
    "failure": "s3nsync-failure",
}
KEPT = Path(__file__).with_name("policies.json")
CALLS = Path(__file__).with_name("calls.json")


# --- who, what, where ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Need:
    """A call that must be allowed: `who` is a role's word or a service; `why` names the program or the occasion."""

    who: str
    action: str
    resource: str
    why: str
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """What the words are in one variant of the deployment."""

    eventbridge: bool = False
    verifies: bool = False
    prefixes: tuple[str, ...] = ("",)
    key: str = OWN_KEY
    secrets: tuple[str, ...] = (f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:s3nsync/netstorage-AbCdEf",)
    repository: str = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/s3nsync"
    bucket_key: str | None = None

    def arns(self, word: str) -> tuple[str, ...]:
        """Give the ARNs that a word stands for; empty where this variant has no such thing."""
        if word in QUEUES:
            return (f"arn:aws:sqs:{REGION}:{ACCOUNT}:{QUEUES[word]}",)
        logs = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group"
        found: dict[str, tuple[str, ...]] = {
            "*": ("*",),
            "bucket": ("arn:aws:s3:::media",),
            "object": tuple(f"arn:aws:s3:::media/{prefix}a b/ü.mp4" for prefix in self.prefixes),
            "key": (self.key,),
            "own key": (self.key,) if self.key == OWN_KEY else (),
            "bucket's key": (self.bucket_key,) if self.bucket_key else (),
            "secret": self.secrets,
            "repository": (self.repository,),
            "function's log": (f"{logs}:/aws/lambda/s3nsync-intake:log-stream:2026/11/23/[1]0f",),
            "worker's log": (f"{logs}:/ecs/s3nsync:log-stream:worker/worker/0f",),
            "function": (f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:s3nsync-intake",),
            "verify's task": (f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/s3nsync-verify:7",),
            **{f"role {role}": (role_arn(role),) for role in ("intake", "worker", "execution", "verify", "scheduler")},
        }
        return found[word]


VARIANTS = {
    "defaults": Place(),
    "eventbridge": Place(eventbridge=True, verifies=True),
    "given": Place(
        verifies=True,
        prefixes=("site/", "film/"),
        key=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/given",
        secrets=(
            f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:netstorage-AbCdEf",
            f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:film-GhIjKl",
        ),
        repository=f"arn:aws:ecr:{REGION}:{STRANGER}:repository/team/s3nsync",
        bucket_key=f"arn:aws:kms:{REGION}:{ACCOUNT}:key/bucket",
    ),
}


def role_arn(role: str) -> str:
    """Give a role's ARN by its word."""
    return f"arn:aws:iam::{ACCOUNT}:role/s3nsync-{REGION}-{role}"


def principal(who: str) -> Principal:
    """Give the principal for a role's word or a service's name."""
    return Principal(who if who.endswith(".amazonaws.com") else role_arn(who))


# --- what is needed --------------------------------------------------------------------------------------------


def needs(place: Place) -> list[Need]:
    """Give all that must be allowed in a variant."""
    used = [
        Need(
            each["role"],
            each["action"],
            each["resource"],
            f"`{each['program']}`" if " " in each["program"] else "the function",
        )
        for each in json.loads(CALLS.read_text())
        if place.verifies or each["role"] != "verify"
    ]
    seen = [*used, *BEHIND_THE_SCENES, *(BY_EVENTBRIDGE if place.eventbridge else BY_NOTIFICATION)]
    seen += BY_SCHEDULE if place.verifies else ()
    return [*seen, *(implied for need in seen for implied in _implied(need))]


def _through(service: str) -> dict[str, str]:
    return {"kms:ViaService": f"{service}.{REGION}.amazonaws.com"}


def _implied(need: Need) -> Iterator[Need]:
    """Give what AWS asks for besides the call itself.

    Sources: SQS Developer Guide, "Key management" (a producer needs GenerateDataKey and Decrypt, a consumer Decrypt);
    Secrets Manager User Guide, "Secret encryption and decryption"; S3 API, GetObject (404 only with s3:ListBucket).
    """
    is_service = need.who.endswith(".amazonaws.com")  # asks KMS by itself, and may not name SQS
    context = {} if is_service else _through("sqs")
    match need.action:
        case "sqs:SendMessage":
            yield Need(
                need.who,
                "kms:GenerateDataKey",
                "own key" if is_service else "key",
                "sends to an encrypted queue",
                context,
            )
            yield Need(
                need.who, "kms:Decrypt", "own key" if is_service else "key", "sends to an encrypted queue", context
            )
        case "sqs:ReceiveMessage":
            yield Need(need.who, "kms:Decrypt", "key", "receives from an encrypted queue", context)
        case "secretsmanager:GetSecretValue":
            yield Need(need.who, "kms:Decrypt", "key", "reads an encrypted secret", _through("secretsmanager"))
        case "s3:GetObject":
            yield Need(need.who, "s3:ListBucket", "bucket", "a key that is gone is told as gone")
            yield Need(need.who, "kms:Decrypt", "bucket's key", "reads an SSE-KMS object", _through("s3"))


_PULL = "ECS pulls the image"
_LOG_KEY = {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/ecs/s3nsync"}

BEHIND_THE_SCENES = (
    Need("intake", "sqs:SendMessage", "failure", "Lambda hands over what failed"),
    Need("intake", "logs:CreateLogStream", "function's log", "Lambda logs"),
    Need("intake", "logs:PutLogEvents", "function's log", "Lambda logs"),
    Need("execution", "ecr:GetAuthorizationToken", "*", _PULL),
    Need("execution", "ecr:BatchCheckLayerAvailability", "repository", _PULL),
    Need("execution", "ecr:BatchGetImage", "repository", _PULL),
    Need("execution", "ecr:GetDownloadUrlForLayer", "repository", _PULL),
    Need("execution", "secretsmanager:GetSecretValue", "secret", "ECS puts it into the task"),
    Need("execution", "logs:CreateLogStream", "worker's log", "ECS logs"),
    Need("execution", "logs:PutLogEvents", "worker's log", "ECS logs"),
    Need("lambda.amazonaws.com", "sts:AssumeRole", "role intake", "the function runs"),
    Need("ecs-tasks.amazonaws.com", "sts:AssumeRole", "role worker", "a task runs", {"aws:SourceAccount": ACCOUNT}),
    Need("ecs-tasks.amazonaws.com", "sts:AssumeRole", "role execution", "a task starts"),
    Need(
        "events.amazonaws.com",
        "lambda:InvokeFunction",
        "function",
        "the schedule has it empty the failure queue",
        {"aws:SourceArn": f"{RULES}/s3nsync-drain-failures"},
    ),
    Need("cloudwatch.amazonaws.com", "kms:Decrypt", "own key", "an alarm speaks to the encrypted topic"),
    Need("cloudwatch.amazonaws.com", "kms:GenerateDataKey", "own key", "an alarm speaks to the encrypted topic"),
    *(  # CloudWatch Logs User Guide, "Encrypt log data": these five, with the group as encryption context
        Need(f"logs.{REGION}.amazonaws.com", f"kms:{action}", "own key", "an encrypted log group", _LOG_KEY)
        for action in ("Encrypt", "Decrypt", "ReEncryptFrom", "ReEncryptTo", "GenerateDataKey", "DescribeKey")
    ),
)
"""What AWS does in a role's name, or what its services do at our resources. ECR and Secrets Manager also ask KMS when
they are set up: with Terraform's own permissions, which are the user's business."""

BY_NOTIFICATION = (
    Need(
        "s3.amazonaws.com",
        "lambda:InvokeFunction",
        "function",
        "the bucket calls it",
        {"aws:SourceArn": "arn:aws:s3:::media", "aws:SourceAccount": ACCOUNT},
    ),
)
_FROM_RULE = {"aws:SourceArn": f"{RULES}/s3nsync-s3-a4e1d1f1"}
BY_EVENTBRIDGE = (
    Need("events.amazonaws.com", "lambda:InvokeFunction", "function", "the bucket's rule calls it", _FROM_RULE),
    Need("events.amazonaws.com", "sqs:SendMessage", "failure", "the rule's dead letters", _FROM_RULE),
)

CLUSTER = f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/s3nsync"
_AS_TASK = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
_STARTS = "the scheduler starts verify"
BY_SCHEDULE = (
    Need("scheduler", "ecs:RunTask", "verify's task", _STARTS, {"ecs:cluster": CLUSTER}),
    Need("scheduler", "iam:PassRole", "role verify", _STARTS, _AS_TASK),
    Need("scheduler", "iam:PassRole", "role execution", _STARTS, _AS_TASK),
    Need("scheduler.amazonaws.com", "sts:AssumeRole", "role scheduler", _STARTS, {"aws:SourceAccount": ACCOUNT}),
    Need("ecs-tasks.amazonaws.com", "sts:AssumeRole", "role verify", "verify runs", {"aws:SourceAccount": ACCOUNT}),
)


# --- what is forbidden -----------------------------------------------------------------------------------------

ROLES = ("intake", "worker", "execution", "verify", "scheduler", "operator")
_ELSEWHERE = {
    "sqs": f"arn:aws:sqs:{REGION}:{ACCOUNT}:somebody-elses.fifo",
    "s3": "arn:aws:s3:::media-of-others",
    "secretsmanager": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:database-AbCdEf",
    "kms": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/somebody-elses",
    "ecr": f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/somebody-elses",
    "logs": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/somebody/elses:log-stream:1",
    "lambda": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:somebody-elses",
}
_ADMINISTERS = (
    *(f"sqs:{each}" for each in ("PurgeQueue", "DeleteQueue", "SetQueueAttributes", "AddPermission", "CreateQueue")),
    *(f"kms:{each}" for each in ("ScheduleKeyDeletion", "PutKeyPolicy", "CreateGrant", "DisableKey", "Encrypt")),
    *(f"secretsmanager:{each}" for each in ("PutSecretValue", "DeleteSecret", "UpdateSecret", "PutResourcePolicy")),
    *(f"ecr:{each}" for each in ("PutImage", "BatchDeleteImage", "DeleteRepository", "InitiateLayerUpload")),
    *(f"logs:{each}" for each in ("DeleteLogGroup", "DeleteLogStream", "PutRetentionPolicy", "GetLogEvents")),
    *(f"lambda:{each}" for each in ("UpdateFunctionCode", "UpdateFunctionConfiguration", "AddPermission")),
    *(
        f"s3:{each}"
        for each in ("DeleteBucket", "PutBucketNotification", "PutBucketPolicy", "PutLifecycleConfiguration")
    ),
)
_OBJECT_WRITES = (
    "PutObject",
    "DeleteObject",
    "DeleteObjectVersion",
    "PutObjectAcl",
    "RestoreObject",
    "AbortMultipartUpload",
)
_OF_SERVICE = {
    "sqs": tuple(QUEUES),
    "kms": ("key",),
    "secretsmanager": ("secret",),
    "ecr": ("repository",),
    "logs": ("function's log", "worker's log"),
    "lambda": ("function",),
    "s3": ("bucket",),
}


@dataclass(frozen=True, slots=True)
class Taboo:
    """A call that must be refused, on an ARN."""

    who: str
    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def forbidden(place: Place) -> Iterator[Taboo]:
    """Give what no role may do: write to the bucket, administer, act on what is others', become somebody else."""
    for who in ROLES:
        for action in _OBJECT_WRITES:
            yield from (Taboo(who, f"s3:{action}", arn) for arn in place.arns("object"))
        for action in _ADMINISTERS:
            words = _OF_SERVICE[action.partition(":")[0]]
            yield from (Taboo(who, action, arn) for word in words for arn in place.arns(word))
        for action in ("iam:PassRole", "iam:CreateAccessKey", "iam:AttachRolePolicy", "sts:AssumeRole"):
            yield from (Taboo(who, action, role_arn(role)) for role in ROLES)
        yield Taboo(who, "ecs:RunTask", f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition/s3nsync:1")
    yield from _elsewhere(place)
    yield from _others_work(place)
    yield from _other_tasks()
    yield from _past_the_key(place)


def _elsewhere(place: Place) -> Iterator[Taboo]:
    """Give every call that a role needs, on what belongs to somebody else."""
    for need in needs(place):
        service = need.action.partition(":")[0]
        if need.who in ROLES and service in _ELSEWHERE and need.resource != "*":
            tail = "/a b/ü.mp4" if need.resource == "object" else ""
            yield Taboo(need.who, need.action, _ELSEWHERE[service] + tail, need.context)
    if place.prefixes != ("",):
        yield from (Taboo(who, "s3:GetObject", "arn:aws:s3:::media/private/x") for who in ("worker", "verify"))
    yield from (Taboo(who, "s3:GetObjectVersion", place.arns("object")[0]) for who in ("worker", "verify"))


def _others_work(place: Place) -> Iterator[Taboo]:
    """Give what only another role may do."""
    queues = {word: place.arns(word)[0] for word in QUEUES}
    take = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")
    for action in take:
        yield from (Taboo("worker", action, queues[word]) for word in ("dead", "failure"))
        yield from (Taboo("intake", action, queues[word]) for word in ("live", "bulk", "check", "dead"))
        yield from (Taboo("operator", action, queues[word]) for word in ("live", "bulk", "check", "failure"))
    for word, arn in queues.items():
        for who in ("execution", "verify", "scheduler"):
            yield from (Taboo(who, action, arn) for action in (*take, "sqs:SendMessage"))
        if word in {"bulk", "check"}:
            yield Taboo("intake", "sqs:SendMessage", arn)
        if word != "bulk":
            yield Taboo("operator", "sqs:SendMessage", arn)
    for who in ("intake", "execution", "scheduler", "operator"):
        yield Taboo(who, "s3:GetObject", place.arns("object")[0])
    for who in ("intake", "worker", "verify", "scheduler", "operator"):
        yield from (Taboo(who, "secretsmanager:GetSecretValue", arn) for arn in place.secrets)


def _other_tasks() -> Iterator[Taboo]:
    """Give what would let the scheduler start something else, elsewhere, or as somebody else."""
    tasks = f"arn:aws:ecs:{REGION}:{ACCOUNT}:task-definition"
    yield from (Taboo("scheduler", "ecs:RunTask", f"{tasks}/{each}:1", {"ecs:cluster": CLUSTER}) for each in _FAMILIES)
    yield Taboo("scheduler", "ecs:RunTask", f"{tasks}/s3nsync-verify:7", {"ecs:cluster": CLUSTER.replace("s3n", "x")})
    yield Taboo(
        "scheduler", "ecs:StopTask", f"arn:aws:ecs:{REGION}:{ACCOUNT}:task/s3nsync/0f", {"ecs:cluster": CLUSTER}
    )
    for role in ("intake", "worker", "scheduler"):
        yield Taboo("scheduler", "iam:PassRole", role_arn(role), _AS_TASK)
    for role in ("verify", "execution"):
        yield Taboo("scheduler", "iam:PassRole", role_arn(role), {"iam:PassedToService": "ec2.amazonaws.com"})


_FAMILIES = ("s3nsync", "s3nsync-verify-of-others", "somebody-elses")


def _past_the_key(place: Place) -> Iterator[Taboo]:
    """Give uses of the key that do not come through the service that it is meant for."""
    for who in ROLES:
        yield Taboo(who, "kms:Decrypt", place.key)
        other = "secretsmanager" if who != "execution" else "sqs"
        yield Taboo(who, "kms:Decrypt", place.key, _through(other))


# --- judging ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deployment:
    """The policies of one variant."""

    roles: Mapping[str, Policy]
    trusts: Mapping[str, Policy]
    resources: Mapping[str, Policy]

    def request(self, who: str, action: str, resource: str, context: Mapping[str, str]) -> Request:
        """Put a request together; over TLS unless the context says otherwise."""
        return Request(principal(who), action, resource, {"aws:SecureTransport": "true", **context})

    def says(self, request: Request, identity: Policy | None = None) -> Decision:
        """Say what AWS would say, by the role's policy (or `identity`) and the resource's."""
        role = next((word for word in self.roles if role_arn(word) == request.principal.name), "")
        mine = identity if identity is not None else self.roles.get(role, NOTHING)
        resource = self.resources.get(request.resource)
        if request.action == "sts:AssumeRole":
            trusted = next((word for word in self.trusts if role_arn(word) == request.resource), "")
            resource = self.trusts.get(trusted, NOTHING)
        return decide(request, mine, resource)


def requests(deployment: Deployment, place: Place, wanted: Iterable[Need]) -> Iterator[tuple[Need, Request]]:
    """Give a request for each thing that a need's word stands for."""
    for need in wanted:
        for arn in place.arns(need.resource):
            yield need, deployment.request(need.who, need.action, arn, need.context)


def deployments() -> dict[str, Deployment]:
    """Read policies.json, and add the policy of the image repository where that is another account's."""
    found = {name: read_deployment(each) for name, each in json.loads(KEPT.read_text()).items()}
    given = found["given"]
    repository = {VARIANTS["given"].repository: read_resource_policy(THEIR_REPOSITORY)}
    return {**found, "given": replace(given, resources={**given.resources, **repository})}


THEIR_REPOSITORY: Mapping[str, Json] = {
    "Version": "2012-10-17",
    "Statement": {
        "Effect": "Allow",
        "Principal": {"AWS": role_arn("execution")},
        "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Resource": "*",
    },
}
"""What README.md asks of whoever lends an image from another account."""


def read_deployment(found: Mapping[str, Mapping[str, Mapping[str, Json]]]) -> Deployment:
    """Read one variant's documents."""
    return Deployment(
        roles={name: read_identity_policy(each) for name, each in found["role"].items()},
        trusts={name: read_resource_policy(each) for name, each in found["trust"].items()},
        resources={arn: read_resource_policy(each) for arn, each in found["resource"].items()},
    )
