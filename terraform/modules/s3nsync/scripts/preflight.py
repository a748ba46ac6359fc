"""Asks what Terraform cannot know by itself, and refuses before anything is written.

`routes`: function and worker read the routes at their start, and would refuse ones that do not go together (two that
write to one place, say). So they are read here first, by the product's own reader. `notifications`: a bucket's
notification settings are one whole, and Terraform would replace it. So the bucket must notify nobody yet but this
deployment, which is named PREFLIGHT_OURS. `endpoint`: AWS refuses a second S3 gateway endpoint for a route table, and
would do so half-way through.

Run by the module, with its questions in the environment: PREFLIGHT_ROUTES and PREFLIGHT_SOURCES (the folder of the
package); or PREFLIGHT_REGION, and PREFLIGHT_BUCKET and PREFLIGHT_OURS, or PREFLIGHT_ROUTE_TABLE. Those two need the AWS
command line, with the same credentials as the provider. Standard library only.
"""  # noqa: INP001 - a script of its own, no part of a package

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

OLDEST_PYTHON = (3, 11)
"""What pyproject.toml asks for; this file itself runs on older ones, so that it can say so."""

_TARGETS = {
    "LambdaFunctionConfigurations": "LambdaFunctionArn",
    "QueueConfigurations": "QueueArn",
    "TopicConfigurations": "TopicArn",
}


class Refusal(Exception):
    """What is in the way, and what to do about it."""


def routes(text: str, sources: str) -> str | None:
    """Tell why the product would refuse these routes (JSON), or None."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        return (
            f"python3 on this machine's PATH is {sys.version.split()[0]}, and the product is written for "
            f"{OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or later. Nothing was changed. Put such a python3 first on PATH."
        )
    sys.dont_write_bytecode = True  # the sources are only lent
    sys.path.insert(0, sources)
    from s3nsync.errors import ConfigError  # noqa: PLC0415 - where it lies is part of the question
    from s3nsync.mapping import routes_from_json  # noqa: PLC0415

    try:
        routes_from_json(text)
    except ConfigError as error:
        return f"{error.message}\nNothing was changed. Correct the routes: {error.hint}."
    return None


def notifications(answer: Mapping[str, object], bucket: str, ours: str) -> str | None:
    """Tell from a bucket's notification settings why we may not replace them, or None.

    Ids of the deployment `ours` end in eight hexadecimal digits; one that is named `ours` and more has longer ids.
    """
    own = re.compile(f"{re.escape(ours)}-[0-9a-f]{{8}}")
    others = [
        f"{entry.get('Id', 'without an id')} -> {entry.get(target, '?')}"
        for kind, target in _TARGETS.items()
        for entry in _entries(answer, kind)
        if not own.fullmatch(str(entry.get("Id", "")))
    ]
    if "EventBridgeConfiguration" in answer:
        others.append("EventBridge is on")
    if not others:
        return None
    return (
        f"Bucket {bucket} notifies somebody already ({'; '.join(others)}), and its notification settings can only be "
        "replaced as a whole. The bucket was not changed. Either add this module's function to the configuration that "
        'owns them; or let it turn EventBridge on, and use event_path = "eventbridge". In both cases set '
        "manage_bucket_notification = false here. Or remove them, if nobody needs them."
    )


def endpoint(answer: Mapping[str, object], route_table: str) -> str | None:
    """Tell from the S3 gateway endpoints why we may not make one for this route table, or None.

    One that was deleted is listed for a while, tables and all.
    """
    for each in _entries(answer, "VpcEndpoints"):
        tables = each.get("RouteTableIds")
        is_there = str(each.get("State", "")).lower() != "deleted"
        if is_there and isinstance(tables, list) and route_table in tables:
            return (
                f"Route table {route_table} has an S3 gateway endpoint already ({each.get('VpcEndpointId', '?')}), and "
                "AWS allows one. Nothing was changed. Set create_s3_endpoint = false: the tasks will use that one."
            )
    return None


def _entries(answer: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    entries = answer.get(name)
    return entries if isinstance(entries, list) else []


def ask(arguments: Sequence[str], region: str) -> Mapping[str, object]:
    """Ask the AWS command line; raises Refusal when it is missing or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - the words are this file's own
            ["aws", *arguments, "--region", region, "--output", "json"],  # noqa: S607 - found on PATH, like python3
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except FileNotFoundError:
        raise Refusal(
            "The AWS command line (aws) is not on this machine's PATH; the module asks it what Terraform cannot read. "
            "Install it: https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html"
        ) from None
    except subprocess.TimeoutExpired:
        raise Refusal(f"AWS did not answer within two minutes: aws {' '.join(arguments)}") from None
    if done.returncode:
        raise Refusal(
            f"AWS refused: aws {' '.join(arguments)}: {done.stderr.strip()} "
            "(the command line must have the same credentials as Terraform: AWS_PROFILE, or the AWS_ variables)"
        )
    answer: Mapping[str, object] = json.loads(done.stdout.strip() or "{}")  # no notifications: no output
    return answer


def check(question: str, env: Mapping[str, str]) -> str | None:
    """Ask one of the questions; gives why not, or None. Raises Refusal when there is no answer."""
    if question == "routes":
        return routes(env["PREFLIGHT_ROUTES"], env["PREFLIGHT_SOURCES"])
    region = env["PREFLIGHT_REGION"]
    if question == "notifications":
        bucket = env["PREFLIGHT_BUCKET"]
        answer = ask(["s3api", "get-bucket-notification-configuration", "--bucket", bucket], region)
        return notifications(answer, bucket, env["PREFLIGHT_OURS"])
    wanted = f"Name=service-name,Values=com.amazonaws.{region}.s3"
    answer = ask(["ec2", "describe-vpc-endpoints", "--filters", wanted], region)
    return endpoint(answer, env["PREFLIGHT_ROUTE_TABLE"])


def main(arguments: Sequence[str]) -> int:
    """Run from the command line with one question; exit status 1 is a refusal."""
    if list(arguments) not in (["routes"], ["notifications"], ["endpoint"]):
        sys.stderr.write("usage: preflight.py routes | notifications | endpoint\n")
        return 2
    try:
        why_not = check(arguments[0], os.environ)  # noqa: TID251 - Terraform hands the questions over so
    except Refusal as refusal:
        why_not = str(refusal)
    if why_not:
        sys.stderr.write(why_not + "\n")
    return 1 if why_not else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
