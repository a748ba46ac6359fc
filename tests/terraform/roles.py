"""Writes README.md's two tables on permissions: what each role may do, and who else may do what at our resources.

Rows are the policies' statements. Words for what they are on and why come from the calls that need them
(permissions.py), so a row says nothing that is not tested, and a statement that nobody needs would be an empty row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from terraform.iam import NOTHING, Statement
from terraform.permissions import QUEUES, ROLES, VARIANTS, Deployment, Need, Place, deployments, needs, requests

WORDS = {
    "*": "every resource: AWS knows no other here",
    "bucket": "the buckets",
    "bucket's key": "`bucket_kms_key_arns`",
    "execution": "the image, the secret, the log of a task",
    "function": "the function",
    "function's log": "the function's log group",
    "intake": "the function",
    "key": "the key",
    "object": "the routes' prefixes",
    "operator": "a person, by the output `operator_policy`",
    "own key": "the key",
    "repository": "the image's repository",
    "role execution": "execution",
    "role intake": "intake",
    "role scheduler": "scheduler",
    "role verify": "verify",
    "role worker": "worker",
    "scheduler": "only with `verify_every_hours`",
    "secret": "the secrets",
    "verify": "the task on a schedule, only with `verify_every_hours`",
    "verify's task": "verify's task definition",
    "worker": "the task",
    "worker's log": "the worker's log group",
}

CONDITIONS = {
    "aws:sourceaccount": "for this account",
    "aws:sourcearn": "for this bucket or rule",
    "ecs:cluster": "in the cluster",
    "iam:passedtoservice": "to ECS tasks",
    "kms:encryptioncontext:aws:logs:arn": "for these log groups",
    "kms:viaservice": "through {}",
}


def roles() -> str:
    """Write what each role may do."""
    lines = ["| role | may | on | because |", "|---|---|---|---|"]
    for role in ROLES:
        name = f"{role}: {WORDS[role]}"
        for statement, wanted in _statements(role):
            because = "; ".join(dict.fromkeys(need.why for need in wanted))
            lines.append(f"| {name} | {_actions(wanted)} | {_where(statement, wanted)} | {because} |")
            name = ""
    return "\n".join(lines)


def doors() -> str:
    """Write who else may do what: the Allow statements of queues, key, function and trusts, account's own apart."""
    lines = ["| service | may | on | because |", "|---|---|---|---|"]
    services = sorted({need.who for place in VARIANTS.values() for need in needs(place) if need.who not in ROLES})
    for service in services:
        for statement, wanted in _open_to(service):
            because = "; ".join(dict.fromkeys(need.why for need in wanted))
            lines.append(f"| `{service}` | {_actions(wanted)} | {_where(statement, wanted)} | {because} |")
    return "\n".join(lines).replace(".eu-central-1.", ".REGION.")


def _statements(role: str) -> Iterator[tuple[Statement, list[Need]]]:
    """Give a role's statements, each once over all variants, with the calls that need it."""
    told: set[str] = set()
    for deployment, place in _variants():
        for statement in deployment.roles.get(role, NOTHING).statements:
            wanted = _needing(statement, deployment, place, role)
            if statement.sid not in told:
                told.add(statement.sid)
                yield statement, wanted


def _open_to(service: str) -> Iterator[tuple[Statement, list[Need]]]:
    """Give the statements of resources that name a service, each once over all variants."""
    told: set[tuple[str, ...]] = set()
    for deployment, place in _variants():
        for policy in (*deployment.resources.values(), *deployment.trusts.values()):
            for statement in policy.statements:
                wanted = _needing(statement, deployment, place, service)
                key = tuple(f"{need.action} {need.resource} {need.why}" for need in wanted)
                if wanted and ("Service", service) in (statement.principals or ()) and key not in told:
                    told.add(key)
                    yield statement, wanted


def _variants() -> Iterator[tuple[Deployment, Place]]:
    found = deployments()
    return ((found[name], place) for name, place in VARIANTS.items())


def _needing(statement: Statement, deployment: Deployment, place: Place, who: str) -> list[Need]:
    """Give the calls that a statement serves; a trust says nothing of its own role, so there the name decides."""
    asked = requests(deployment, place, (need for need in needs(place) if need.who == who))
    return [
        need
        for need, request in asked
        if statement.allows
        and statement.speaks_of(request)
        and (need.action != "sts:AssumeRole" or statement in deployment.trusts[need.resource.split()[1]].statements)
    ]


def _actions(wanted: Sequence[Need]) -> str:
    """Name the actions; the service's name once."""
    names = sorted({need.action for need in wanted}, key=lambda name: (name.partition(":")[0], name))
    first, *rest = names
    return ", ".join([f"`{first}`", *(f"`{name.partition(':')[2]}`" for name in rest)])


def _where(statement: Statement, wanted: Sequence[Need]) -> str:
    """Name the resources, and the conditions that hold them together."""
    words = dict.fromkeys(need.resource for need in wanted)
    queues = [word for word in QUEUES if word in words]
    others = [WORDS[word] for word in words if word not in QUEUES]
    named = others + ([f"{_listed(queues)} queue"] if queues else [])
    return ", ".join([*named, *_conditions(statement)])


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _conditions(statement: Statement) -> Iterable[str]:
    for each in statement.conditions:
        service = each.values[0].partition(".")[0]
        yield CONDITIONS[each.key].format({"sqs": "SQS", "s3": "S3", "secretsmanager": "Secrets Manager"}.get(service))
