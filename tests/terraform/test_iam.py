"""The evaluator against what AWS documents of policy evaluation, and its refusal of all that it does not know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraform.iam import (
    NOTHING,
    Decision,
    Json,
    Policy,
    Principal,
    Request,
    Unknown,
    decide,
    matches,
    read_identity_policy,
    read_resource_policy,
)

ROLE = "arn:aws:iam::111122223333:role/app"
QUEUE = "arn:aws:sqs:us-east-1:111122223333:jobs"
KEY = "arn:aws:kms:us-east-1:111122223333:key/k"


def identity(*statements: dict[str, Json]) -> Policy:
    """Read statements that allow sqs:SendMessage on the queue unless they say otherwise."""
    usual: dict[str, Json] = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": QUEUE}
    return read_identity_policy({"Version": "2012-10-17", "Statement": [_over(usual, each) for each in statements]})


def resource(*statements: dict[str, Json]) -> Policy:
    """Read the same as a resource's policy, of the role unless they say otherwise."""
    usual: dict[str, Json] = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": QUEUE}
    usual["Principal"] = {"AWS": ROLE}
    return read_resource_policy({"Version": "2012-10-17", "Statement": [_over(usual, each) for each in statements]})


def _over(usual: dict[str, Json], given: dict[str, Json]) -> dict[str, Json]:
    without = {name[3:] for name in given if name.startswith("Not")}
    return {name: value for name, value in usual.items() if name not in without} | given


def asked(action: str = "sqs:SendMessage", arn: str = QUEUE, who: str = ROLE, **context: str) -> Request:
    """Give a request; `_` in the names of context stands for `:`."""
    return Request(Principal(who), action, arn, {name.replace("_", ":"): value for name, value in context.items()})


def test_nothing_is_allowed_by_default() -> None:
    """Implicit deny."""
    assert decide(asked()) is Decision.NOT_ALLOWED


def test_either_side_allows_within_an_account() -> None:
    """A union of identity's and resource's policies."""
    assert decide(asked(), identity({})) is Decision.ALLOWED
    assert decide(asked(), NOTHING, resource({})) is Decision.ALLOWED


@pytest.mark.parametrize("principal", ["*", {"AWS": "*"}, {"AWS": ROLE}, {"AWS": "arn:aws:iam::111122223333:root"}])
def test_an_explicit_deny_on_either_side_beats_every_allow(principal: Json) -> None:
    """Deny first, whomever it names."""
    assert decide(asked(), identity({}, {"Effect": "Deny"}), resource({})) is Decision.DENIED
    assert decide(asked(), identity({}), resource({}, {"Effect": "Deny", "Principal": principal})) is Decision.DENIED


def test_another_account_needs_both_sides() -> None:
    """Cross-account: neither side alone is enough."""
    there = "arn:aws:sqs:us-east-1:999999999999:jobs"
    request = asked(arn=there)
    mine, theirs = identity({"Resource": there}), resource({"Resource": there})
    assert decide(request, mine) is Decision.NOT_ALLOWED
    assert decide(request, NOTHING, theirs) is Decision.NOT_ALLOWED
    assert decide(request, mine, theirs) is Decision.ALLOWED


def test_the_root_principal_hands_the_decision_to_the_account() -> None:
    """It allows nobody by itself: the identity's policy must allow as well."""
    handing_over = resource({"Principal": {"AWS": "arn:aws:iam::111122223333:root"}, "Action": "*", "Resource": "*"})
    assert decide(asked(), NOTHING, handing_over) is Decision.NOT_ALLOWED
    assert decide(asked(), identity({}), handing_over) is Decision.ALLOWED


def test_a_key_policy_has_the_last_word() -> None:
    """KMS: without the key policy's consent no identity policy counts."""
    mine = identity({"Action": "kms:Decrypt", "Resource": KEY})
    request = asked("kms:Decrypt", KEY)
    others = resource({"Action": "kms:*", "Resource": "*", "Principal": {"AWS": "arn:aws:iam::111122223333:role/x"}})
    account = resource({"Action": "kms:*", "Resource": "*", "Principal": {"AWS": "arn:aws:iam::111122223333:root"}})
    assert decide(request, mine, others) is Decision.NOT_ALLOWED
    assert decide(request, mine, account) is Decision.ALLOWED
    assert decide(request, NOTHING, account) is Decision.NOT_ALLOWED


def test_a_service_needs_the_resources_consent() -> None:
    """Services have no identity policy; the one that is named may, others may not."""
    mine = resource({"Principal": {"Service": "events.amazonaws.com"}})
    assert decide(asked(who="events.amazonaws.com"), NOTHING, mine) is Decision.ALLOWED
    assert decide(asked(who="sns.amazonaws.com"), NOTHING, mine) is Decision.NOT_ALLOWED


def test_actions_ignore_case_and_resources_do_not() -> None:
    """As documented for both elements."""
    assert decide(asked("SQS:sendmessage"), identity({})) is Decision.ALLOWED
    assert decide(asked(arn=QUEUE.upper().replace("ARN", "arn")), identity({})) is Decision.NOT_ALLOWED


def test_not_action_and_not_resource_mean_everything_else() -> None:
    """What they list is left out, and nothing more."""
    assert decide(asked("sqs:DeleteQueue"), identity({"NotAction": "sqs:SendMessage"})) is Decision.ALLOWED
    assert decide(asked(), identity({"NotAction": "sqs:SendMessage"})) is Decision.NOT_ALLOWED
    assert decide(asked(arn=QUEUE + "2"), identity({"NotResource": QUEUE})) is Decision.ALLOWED
    assert decide(asked(), identity({"NotResource": QUEUE})) is Decision.NOT_ALLOWED


@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"Bool": {"aws:SecureTransport": "true"}}, {"aws_SecureTransport": "true"}, True),
        ({"Bool": {"aws:SecureTransport": True}}, {"aws_SecureTransport": "true"}, True),
        ({"Bool": {"aws:SecureTransport": "true"}}, {"aws_SecureTransport": "false"}, False),
        ({"Bool": {"aws:SecureTransport": "true"}}, {}, False),
        ({"StringEquals": {"aws:SourceAccount": ["1", "2"]}}, {"aws_SourceAccount": "2"}, True),
        ({"StringEquals": {"aws:SourceAccount": ["1", "2"]}}, {"aws_SourceAccount": "3"}, False),
        ({"StringEquals": {"AWS:SourceAccount": "1"}}, {"aws_sourceaccount": "1"}, True),
        ({"StringEquals": {"kms:ViaService": "a*"}}, {"kms_ViaService": "ab"}, False),
        ({"StringLike": {"kms:ViaService": "a*"}}, {"kms_ViaService": "ab"}, True),
        (
            {"ArnLike": {"aws:SourceArn": "arn:aws:events:*:1:rule/x-*"}},
            {"aws_SourceArn": "arn:aws:events:r:1:rule/x-1"},
            True,
        ),
        (
            {"ArnEquals": {"aws:SourceArn": "arn:aws:events:*:1:rule/x-*"}},
            {"aws_SourceArn": "arn:aws:events:r:1:rule/x-1"},
            True,
        ),
        (
            {"ArnLike": {"aws:SourceArn": "arn:aws:events:*:rule/x"}},
            {"aws_SourceArn": "arn:aws:events:r:1:rule/x"},
            None,
        ),
        ({"ArnLike": {"aws:SourceArn": "arn:aws:*:r:1:x"}}, {"aws_SourceArn": "arn:aws:sns:q:r:1:x"}, False),
        (
            {"Bool": {"aws:SecureTransport": "true"}, "StringEquals": {"aws:SourceAccount": "1"}},
            {"aws_SecureTransport": "true", "aws_SourceAccount": "2"},
            False,
        ),
    ],
)
def test_conditions(condition: Json, context: dict[str, str], holds: bool | None) -> None:
    """All operators and keys must hold, any value will do, a missing key never does, `*` stays within its part."""
    policy = identity({"Condition": condition})
    if holds is None:
        with pytest.raises(Unknown):
            decide(asked(**context), policy)
    else:
        assert (decide(asked(**context), policy) is Decision.ALLOWED) is holds


@pytest.mark.parametrize(
    "statement",
    [
        {"Condition": {"StringNotEquals": {"aws:SourceAccount": "1"}}},
        {"Condition": {"StringEqualsIfExists": {"aws:SourceAccount": "1"}}},
        {"Condition": {"ForAnyValue:StringEquals": {"aws:SourceAccount": "1"}}},
        {"Condition": {"StringEquals": {"aws:PrincipalTag/team": "x"}}},
        {"Resource": "arn:aws:s3:::home/${aws:username}/*"},
        {"Effect": "Maybe"},
        {"Principal": "*"},
        {"NotPrincipal": "*"},
        {"Ressource": "*"},
        {"Condition": "yes"},
        {"Action": 1},
    ],
)
def test_what_it_does_not_know_is_never_skipped(statement: dict[str, Json]) -> None:
    """Elements, operators, condition keys, variables and principals that are unknown end the evaluation."""
    with pytest.raises(Unknown):
        decide(asked(), identity(statement))


@pytest.mark.parametrize(
    "principal", [{"Federated": "x"}, {"AWS": "AROAEXAMPLE"}, {"CanonicalUser": "x"}, {"AWS": "arn:aws:iam::1:user/x"}]
)
def test_principals_of_unknown_kinds_are_refused(principal: Json) -> None:
    """A deleted role's id in a policy, a user, a federation: none is guessed at."""
    with pytest.raises(Unknown):
        resource({"Principal": principal})


def test_documents_of_another_version_or_shape_are_refused() -> None:
    """Version 2008-10-17 evaluates variables otherwise; a missing principal is no resource policy."""
    with pytest.raises(Unknown):
        read_identity_policy({"Version": "2008-10-17", "Statement": []})
    with pytest.raises(Unknown):
        read_identity_policy({"Version": "2012-10-17", "Statement": [], "More": 1})
    with pytest.raises(Unknown):
        read_resource_policy(
            {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}
        )
    with pytest.raises(Unknown):
        decide(
            asked(), read_identity_policy({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*"}})
        )
    with pytest.raises(Unknown):
        decide(asked(aws_Unknown="1"), identity({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}))


def naive(pattern: str, text: str) -> bool:
    """Match by trying every way."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return naive(pattern[1:], text) or (bool(text) and naive(pattern, text[1:]))
    return bool(text) and pattern[0] in {"?", text[0]} and naive(pattern[1:], text[1:])


@given(st.text(alphabet="ab*?.:[\n", max_size=7), st.text(alphabet="ab*?.:[\n", max_size=7))
def test_wildcards_match_as_a_naive_matcher_does(pattern: str, text: str) -> None:
    """`*` and `?` are the only special characters; everything else stands for itself."""
    assert matches(pattern, text) == naive(pattern, text)
