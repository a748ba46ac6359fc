"""Says what AWS would say to a request, by the policies on both of its sides.

The rules are those of AWS's own page on policy evaluation (IAM User Guide, "Policy evaluation logic"), for what this
project has: identity policies of roles, and resource policies of queues, keys, functions and roles (their trust).

1. A matching Deny on either side decides.
2. A service (`sqs`, `events`, …) needs a matching Allow in the resource's policy.
3. A role of the resource's own account needs an Allow on either side. Two kinds of resources always have a say: a KMS
   key and a role, by its trust. There the identity's Allow counts only if the resource's policy hands the decision to
   the account (`arn:aws:iam::ACCOUNT:root`).
4. A role of another account needs an Allow on both sides.

A wrong evaluator would prove anything, so it knows little and says so: an element, operator, condition key, principal
or variable that is not known here raises Unknown, and is never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"

VERSION = "2012-10-17"
HAS_THE_LAST_WORD = frozenset({"kms", "sts"})
"""Services whose resource policies are asked even where the identity's policies allow."""

CONDITION_KEYS = frozenset(
    {
        "aws:securetransport",
        "aws:sourceaccount",
        "aws:sourcearn",
        "ecs:cluster",
        "iam:passedtoservice",
        "kms:encryptioncontext:aws:logs:arn",
        "kms:viaservice",
    }
)
"""Keys of conditions, in lower case: AWS compares their names without regard to case."""

_ELEMENTS = frozenset({"Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"})


class Unknown(Exception):
    """The policy or the request has something that this evaluator does not know."""


class Decision(Enum):
    """What AWS says."""

    ALLOWED = "allowed"
    DENIED = "denied by a statement"
    NOT_ALLOWED = "allowed by no statement"


# --- what is asked ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a role by its ARN, or a service by its name (`lambda.amazonaws.com`)."""

    name: str

    @property
    def is_service(self) -> bool:
        """Tell a service from a role."""
        return not self.name.startswith("arn:")

    @property
    def account(self) -> str:
        """Give a role's account."""
        return arn_parts(self.name)[4]


@dataclass(frozen=True, slots=True)
class Request:
    """One call: `resource` is an ARN or, for actions that know none, `*`; `context` holds condition keys' values."""

    principal: Principal
    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)

    def value(self, key: str) -> str | None:
        """Give a condition key's value; None if the request does not carry it."""
        for name, value in self.context.items():
            if name.lower() not in CONDITION_KEYS:
                raise Unknown(f"condition key {name} in a request")
            if name.lower() == key:
                return value
        return None


# --- what policies say -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key: true if any of the values matches."""

    operator: str
    key: str
    values: tuple[str, ...]

    def holds(self, request: Request) -> bool:
        """Compare; without the key in the request no operator that is known here holds."""
        found = request.value(self.key)
        return found is not None and any(OPERATORS[self.operator](value, found) for value in self.values)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; `principals` are (kind, name), None in identity policies."""

    sid: str
    allows: bool
    principals: tuple[tuple[str, str], ...] | None
    actions: tuple[str, ...]
    not_actions: tuple[str, ...]
    resources: tuple[str, ...]
    not_resources: tuple[str, ...]
    conditions: tuple[Condition, ...]

    def speaks_of(self, request: Request) -> bool:
        """Say whether action, resource and conditions match; principals are another matter."""
        return (
            _named(request.action.lower(), self.actions, self.not_actions)
            and _named(request.resource, self.resources, self.not_resources)
            and all(each.holds(request) for each in self.conditions)
        )

    def names(self, principal: Principal) -> bool:
        """Say whether it names the principal itself or everybody."""
        mine = ("Service" if principal.is_service else "AWS", principal.name)
        return any(each in {mine, ("AWS", "*"), ("*", "*")} for each in self.principals or ())

    def names_account_of(self, principal: Principal) -> bool:
        """Say whether it hands the decision to the principal's account."""
        if principal.is_service:
            return False
        return any(
            kind == "AWS" and name.endswith(":root") and arn_parts(name)[4] == principal.account
            for kind, name in self.principals or ()
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """A document's statements."""

    statements: tuple[Statement, ...]

    def denies(self, request: Request) -> bool:
        """Say whether an identity's policy forbids it."""
        return any(not each.allows and each.speaks_of(request) for each in self.statements)

    def allowing(self, request: Request) -> Iterable[Statement]:
        """Give the statements of an identity's policy that allow it."""
        return (each for each in self.statements if each.allows and each.speaks_of(request))


NOTHING = Policy(())


# --- reading ---------------------------------------------------------------------------------------------------


def read_identity_policy(document: Mapping[str, Json]) -> Policy:
    """Read a role's policy; raises Unknown, also for a Principal, which has no place there."""
    return _read(document, with_principal=False)


def read_resource_policy(document: Mapping[str, Json]) -> Policy:
    """Read the policy of a queue, a key, a function or a role (its trust); raises Unknown."""
    return _read(document, with_principal=True)


def _read(document: Mapping[str, Json], *, with_principal: bool) -> Policy:
    if unknown := set(document) - {"Version", "Id", "Statement"}:
        raise Unknown(f"elements of a policy: {sorted(unknown)}")
    if document.get("Version") != VERSION:
        raise Unknown(f"a policy of version {document.get('Version')}")
    found = document["Statement"]
    statements = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    return Policy(tuple(_statement(_mapping(each), with_principal=with_principal) for each in statements))


def _statement(found: Mapping[str, Json], *, with_principal: bool) -> Statement:
    if unknown := set(found) - _ELEMENTS:
        raise Unknown(f"elements of a statement: {sorted(unknown)}")
    if ("Principal" in found) != with_principal:
        raise Unknown(f"{'no' if with_principal else 'a'} principal in {found.get('Sid', 'a statement')}")
    if found.get("Effect") not in {"Allow", "Deny"}:
        raise Unknown(f"effect {found.get('Effect')}")
    is_trust = with_principal and not {"Resource", "NotResource"} & set(found)  # of a role: it is the resource
    return Statement(
        sid=str(found.get("Sid", "")),
        allows=found["Effect"] == "Allow",
        principals=tuple(_principals(found["Principal"])) if with_principal else None,
        actions=tuple(each.lower() for each in _strings(found.get("Action", []))),
        not_actions=tuple(each.lower() for each in _strings(found.get("NotAction", []))),
        resources=("*",) if is_trust else _strings(found.get("Resource", [])),
        not_resources=_strings(found.get("NotResource", [])),
        conditions=tuple(_conditions(_mapping(found.get("Condition", {})))),
    )


def _principals(found: Json) -> Iterable[tuple[str, str]]:
    if found == "*":
        yield "*", "*"
        return
    for kind, names in _mapping(found).items():
        for name in _strings(names):
            is_known = kind == "Service" or (kind == "AWS" and (name == "*" or re.fullmatch(_IAM_ARN, name)))
            if not is_known:
                raise Unknown(f"principal {kind}: {name}")
            yield kind, name


_IAM_ARN = r"arn:[a-z-]+:iam::\d{12}:(root|role/[\w+=,.@/-]+)"


def _conditions(found: Mapping[str, Json]) -> Iterable[Condition]:
    for operator, tests in found.items():
        if operator not in OPERATORS:
            raise Unknown(f"operator {operator}")
        for key, values in _mapping(tests).items():
            if key.lower() not in CONDITION_KEYS:
                raise Unknown(f"condition key {key}")
            yield Condition(operator, key.lower(), _strings(values))


def _mapping(found: Json) -> Mapping[str, Json]:
    if not isinstance(found, Mapping):
        raise Unknown(f"{found!r} where an object should be")
    return found


def _strings(found: Json) -> tuple[str, ...]:
    values = found if isinstance(found, Sequence) and not isinstance(found, str) else [found]
    texts = [str(each).lower() if isinstance(each, bool) else each for each in values]
    for each in texts:
        if not isinstance(each, str) or "${" in each:
            raise Unknown(f"{each!r} where plain text should be: variables are not known")
    return tuple(str(each) for each in texts)


# --- comparing -------------------------------------------------------------------------------------------------


def _named(found: str, patterns: Sequence[str], excluded: Sequence[str]) -> bool:
    """Match one of the patterns or, where a statement says Not…, none of those."""
    if bool(patterns) == bool(excluded):
        raise Unknown("a statement needs one of Action and NotAction, one of Resource and NotResource")
    if patterns:
        return any(matches(pattern, found) for pattern in patterns)
    return not any(matches(pattern, found) for pattern in excluded)


@lru_cache
def _expression(pattern: str) -> re.Pattern[str]:
    parts = (".*" if each == "*" else "." if each == "?" else re.escape(each) for each in pattern)
    return re.compile("".join(parts), re.DOTALL)


def matches(pattern: str, text: str) -> bool:
    """Compare with wildcards: `*` is any run of characters, none and `:` and `/` among them, `?` is any one."""
    return _expression(pattern).fullmatch(text) is not None


def arn_parts(arn: str) -> list[str]:
    """Split an ARN into its six parts; the last keeps its colons. Raises Unknown."""
    parts = arn.split(":", 5)
    if len(parts) != 6 or parts[0] != "arn":
        raise Unknown(f"{arn} is no ARN")
    return parts


def _arn_like(pattern: str, arn: str) -> bool:
    """Compare ARNs part by part: a wildcard does not reach over a part's end."""
    return all(matches(*pair) for pair in zip(arn_parts(pattern), arn_parts(arn), strict=True))


OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, found: wanted == found,
    "StringLike": matches,
    "ArnEquals": _arn_like,  # AWS: "ArnEquals and ArnLike behave identically"
    "ArnLike": _arn_like,
    "Bool": lambda wanted, found: wanted.lower() == found.lower(),
}


# --- deciding --------------------------------------------------------------------------------------------------


def decide(request: Request, identity: Policy = NOTHING, resource: Policy | None = None) -> Decision:
    """Say what AWS would say; `resource` is None where the resource has no policy."""
    who = request.principal
    said = [each for each in (resource or NOTHING).statements if each.speaks_of(request)]
    denied = any(not each.allows and (each.names(who) or each.names_account_of(who)) for each in said)
    if denied or identity.denies(request):
        return Decision.DENIED
    named = any(each.allows and each.names(who) for each in said)
    handed_over = any(each.allows and each.names_account_of(who) for each in said)
    granted = any(identity.allowing(request))
    if who.is_service:
        allowed = named
    elif _account_of(request) != who.account:
        allowed = granted and (named or handed_over)
    elif service_of(request.action) in HAS_THE_LAST_WORD and resource is not None:
        allowed = named or (granted and handed_over)
    else:
        allowed = named or granted
    return Decision.ALLOWED if allowed else Decision.NOT_ALLOWED


def service_of(action: str) -> str:
    """Give the service of an action: `sqs` of `sqs:SendMessage`."""
    return action.partition(":")[0]


def _account_of(request: Request) -> str:
    """Give the resource's account: the caller's where the ARN names none, because buckets have no policy here."""
    if request.resource == "*":
        return request.principal.account
    return arn_parts(request.resource)[4] or request.principal.account
