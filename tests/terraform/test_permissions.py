"""The module's policies, judged: enough for every call that is made, and for nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from terraform import permissions
from terraform.iam import Decision, Policy, Principal, Request, Statement, matches, read_identity_policy
from terraform.permissions import ACCOUNT, QUEUES, REGION, ROLES, STRANGER, VARIANTS, Deployment, Place

DEPLOYMENTS = permissions.deployments()
ANYTHING = read_identity_policy(
    {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
)

each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS.values(), ids=DEPLOYMENTS)
each_variant = pytest.mark.parametrize(
    ("deployment", "place"), [(DEPLOYMENTS[name], place) for name, place in VARIANTS.items()], ids=VARIANTS
)


@each_variant
def test_every_needed_call_is_allowed(deployment: Deployment, place: Place) -> None:
    """What our programs do, what that implies and what AWS does in our names must pass, or the product stands still."""
    refused = [
        request
        for _, request in permissions.requests(deployment, place, permissions.needs(place))
        if deployment.says(request) is not Decision.ALLOWED
    ]
    assert refused == []


@each_variant
def test_every_forbidden_call_is_refused(deployment: Deployment, place: Place) -> None:
    """A role that is taken over must not write to the bucket, administer, reach what is others' or become another."""
    taboos = list(permissions.forbidden(place))
    allowed = [
        taboo
        for taboo in taboos
        if deployment.says(deployment.request(taboo.who, taboo.action, taboo.resource, taboo.context))
        is Decision.ALLOWED
    ]
    assert allowed == []
    assert len(taboos) > 300


@each_variant
def test_no_statement_is_without_a_user(deployment: Deployment, place: Place) -> None:
    """Least privilege: each action on each resource of each Allow of a role is needed by some call."""
    wanted = list(permissions.requests(deployment, place, permissions.needs(place)))
    idle = []
    for role, policy in deployment.roles.items():
        mine = [request for need, request in wanted if need.who == role]
        idle += [f"{role}: {part}" for statement in policy.statements for part in _idle(statement, mine)]
    assert idle == []


@each_variant
def test_no_resource_is_open_to_a_caller_that_nobody_needs(deployment: Deployment, place: Place) -> None:
    """The same for queues, key, function and trusts: each principal, action and condition value has a user."""
    wanted = [request for _, request in permissions.requests(deployment, place, permissions.needs(place))]
    idle = []
    for name, policy in (*deployment.resources.items(), *deployment.trusts.items()):
        for statement in policy.statements:
            for who in statement.principals or () if statement.allows else ():
                mine = [each for each in wanted if who in _names_of(each)]
                narrowed = replace(statement, principals=(who,))
                idle += [f"{name}: {who}: {part}" for part in _idle(narrowed, mine)]
    assert idle == []


def _names_of(request: Request) -> set[tuple[str, str]]:
    """Give the forms in which a policy can name who asks."""
    name = request.principal.name
    return (
        {("Service", name)}
        if request.principal.is_service
        else {("AWS", name), ("AWS", f"arn:aws:iam::{ACCOUNT}:root")}
    )


def _idle(statement: Statement, wanted: list[Request]) -> list[str]:
    """Name the actions and resources of a statement that no request needs."""
    used = [request for request in wanted if statement.allows and statement.speaks_of(request)]
    pairs = [(action, resource) for action in statement.actions for resource in statement.resources]
    return [
        f"{statement.sid}: {action} on {resource}"
        for action, resource in pairs
        if not any(matches(action, each.action.lower()) and matches(resource, each.resource) for each in used)
    ]


@each_deployment
def test_no_role_has_a_wildcard_that_could_grow(deployment: Deployment) -> None:
    """Actions are spelled out; `*` as a resource is only where AWS knows no other."""
    for role, policy in deployment.roles.items():
        for statement in policy.statements:
            assert statement.allows, role
            assert not statement.not_actions + statement.not_resources, role
            assert not [action for action in statement.actions if "*" in action or "?" in action], role
            if "*" in statement.resources:
                assert statement.actions == ("ecr:getauthorizationtoken",), role


@each_variant
def test_queues_refuse_plain_http_from_everybody(deployment: Deployment, place: Place) -> None:
    """Without TLS no action on any queue is allowed, not even to an administrator."""
    for word in QUEUES:
        for who in (*ROLES, "administrator"):
            for action in ("sqs:SendMessage", "sqs:ReceiveMessage", "sqs:PurgeQueue"):
                request = deployment.request(who, action, place.arns(word)[0], {"aws:SecureTransport": "false"})
                assert deployment.says(request, ANYTHING) is Decision.DENIED
                over_tls = replace(request, context={"aws:SecureTransport": "true"})
                assert deployment.says(over_tls, ANYTHING) is Decision.ALLOWED


@each_deployment
def test_strangers_get_nothing(deployment: Deployment) -> None:
    """An administrator of another account may do nothing here, whatever their own policy says."""
    stranger = Principal(f"arn:aws:iam::{STRANGER}:role/administrator")
    for arn in deployment.resources:
        for action in ("sqs:SendMessage", "kms:Decrypt", "lambda:InvokeFunction"):
            if arn.split(":")[2] == action.partition(":")[0]:
                asked = Request(stranger, action, arn, {"aws:SecureTransport": "true"})
                assert deployment.says(asked, ANYTHING) is Decision.NOT_ALLOWED
    for role in deployment.trusts:
        asked = Request(stranger, "sts:AssumeRole", permissions.role_arn(role))
        assert deployment.says(asked, ANYTHING) is Decision.NOT_ALLOWED


@each_variant
def test_services_act_for_our_own_only(deployment: Deployment, place: Place) -> None:
    """No service of AWS is led astray: another's bucket, rule, task or log group is refused."""
    function = place.arns("function")[0]
    astray = [
        ("s3.amazonaws.com", "lambda:InvokeFunction", function, _source("arn:aws:s3:::media", STRANGER)),
        ("s3.amazonaws.com", "lambda:InvokeFunction", function, _source("arn:aws:s3:::media-of-others", ACCOUNT)),
        ("events.amazonaws.com", "lambda:InvokeFunction", function, _source(f"{permissions.RULES}/other", ACCOUNT)),
        (
            "events.amazonaws.com",
            "sqs:SendMessage",
            place.arns("failure")[0],
            _source(f"{permissions.RULES}/other", ACCOUNT),
        ),
        ("events.amazonaws.com", "sqs:SendMessage", place.arns("live")[0], {}),
        ("sns.amazonaws.com", "lambda:InvokeFunction", function, {}),
        ("ecs-tasks.amazonaws.com", "sts:AssumeRole", permissions.role_arn("worker"), {"aws:SourceAccount": STRANGER}),
        ("ecs-tasks.amazonaws.com", "sts:AssumeRole", permissions.role_arn("verify"), {"aws:SourceAccount": STRANGER}),
        (
            "scheduler.amazonaws.com",
            "sts:AssumeRole",
            permissions.role_arn("scheduler"),
            {"aws:SourceAccount": STRANGER},
        ),
        ("scheduler.amazonaws.com", "sts:AssumeRole", permissions.role_arn("verify"), {"aws:SourceAccount": ACCOUNT}),
        ("ecs-tasks.amazonaws.com", "sts:AssumeRole", permissions.role_arn("intake"), {}),
        ("lambda.amazonaws.com", "sts:AssumeRole", permissions.role_arn("worker"), {"aws:SourceAccount": ACCOUNT}),
        (
            f"logs.{REGION}.amazonaws.com",
            "kms:Decrypt",
            permissions.OWN_KEY,
            {"kms:EncryptionContext:aws:logs:arn": f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/other"},
        ),
    ]
    for who, action, resource, context in astray:
        request = deployment.request(who, action, resource, context)
        assert deployment.says(request) is not Decision.ALLOWED, request


def _source(arn: str, account: str) -> dict[str, str]:
    return {"aws:SourceArn": arn, "aws:SourceAccount": account}


def test_a_missing_permission_and_a_superfluous_one_are_seen() -> None:
    """The judge can fail: without any one statement some call is refused, and one that nobody needs is idle."""
    deployment, place = DEPLOYMENTS["given"], VARIANTS["given"]
    wanted = list(permissions.requests(deployment, place, permissions.needs(place)))
    for role, policy in deployment.roles.items():
        for statement in policy.statements:
            rest = Policy(tuple(each for each in policy.statements if each != statement))
            without = replace(deployment, roles={**deployment.roles, role: rest})
            assert any(without.says(request) is not Decision.ALLOWED for _, request in wanted), (role, statement.sid)
    assert _idle(ANYTHING.statements[0], []) == [": * on *"]
