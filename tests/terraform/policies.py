"""Renders every IAM policy that the module writes, without an AWS, and keeps them in policies.json.

    cd tests && python -m terraform.policies            write policies.json anew
    cd tests && python -m terraform.policies --check    exit status 1 if the module now writes other policies

The module is planned by `terraform test` with the real provider, which puts the documents together, and with answers
for all that it would ask AWS (modules/s3nsync/tests/policies): once with default variables, once with EventBridge, once
with key, secrets and image given. What `test_permissions.py` judges is policies.json; that it is what the module writes
is checked by `make terraform-test`, and that AWS's own API gives the same back by `make terraform-apply-test`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from terraform import workshop
from terraform.permissions import ACCOUNT, KEPT, REGION

PLANS = "tests/policies"
STEP_LIMIT_S = 300

Documents = dict[str, dict[str, Any]]
"""By kind (role, trust, resource), then by role's name or resource's ARN: a policy as AWS takes it."""


def plans(root: Path, env: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Plan the module in every variant; give each one's name and plan. Raises RuntimeError if terraform does not."""
    module = root / "modules" / "s3nsync"
    for arguments in (("init", "-backend=false"), ("test", "-json", "-verbose", f"-test-directory={PLANS}")):
        done = subprocess.run(
            ["terraform", *arguments, "-no-color"],
            cwd=module,
            env=dict(env),
            text=True,
            capture_output=True,
            timeout=STEP_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"terraform {arguments[0]} failed: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message["type"] == "test_plan":
            yield message["@testrun"], message["test_plan"]


def documents(plan: Mapping[str, Any]) -> Documents:
    """Give the policies of a plan."""
    found: Documents = {"role": {}, "trust": {}, "resource": {}}
    outputs = {name: each.get("after") for name, each in plan["output_changes"].items()}
    roles = {**outputs["policies"], "operator": outputs["operator_policy"]}
    found["role"] = {role: json.loads(policy) for role, policy in sorted(roles.items())}
    for change in plan["resource_changes"]:
        made = change["change"]["after"]
        match change["type"]:
            case "aws_iam_role":
                found["trust"][change["index"]] = json.loads(made["assume_role_policy"])
            case "aws_sqs_queue":
                found["resource"][f"arn:aws:sqs:{REGION}:{ACCOUNT}:{made['name']}"] = json.loads(made["policy"])
            case "aws_kms_key":
                found["resource"][made["arn"]] = json.loads(made["policy"])
            case "aws_lambda_permission":
                function = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{made['function_name']}"
                add_permission(found, function, made)
    return found


def add_permission(found: Documents, function: str, made: Mapping[str, Any]) -> None:
    """Add one permission to the function's policy, as Lambda does."""
    condition = {"ArnLike": {"AWS:SourceArn": made["source_arn"]}}
    if made["source_account"]:
        condition["StringEquals"] = {"AWS:SourceAccount": made["source_account"]}
    statement = {
        "Sid": made["statement_id"],
        "Effect": "Allow",
        "Principal": {"Service": made["principal"]},
        "Action": made["action"],
        "Resource": function,
        "Condition": condition,
    }
    policy = found["resource"].setdefault(function, {"Version": "2012-10-17", "Statement": []})
    policy["Statement"].append(statement)


def rendered() -> str:
    """Render all variants in a copy of what ships, as the text of policies.json."""
    with tempfile.TemporaryDirectory(prefix="s3nsync-terraform-") as folder:
        scratch = Path(folder)
        settings = workshop.terraform_settings(scratch, workshop.find_mirror(os.environ))
        root = workshop.copy_sources(scratch)
        found = {
            name: documents(plan)
            for name, plan in plans(root, {"PATH": os.environ["PATH"], "HOME": folder, **settings})
        }
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write or check; see the module's text."""
    now = rendered()
    if list(arguments) != ["--check"]:
        KEPT.write_text(now)
    elif now != KEPT.read_text():
        sys.stderr.write("tests/terraform/policies.json: the module writes other policies; cd tests, and run\n")
        sys.stderr.write("python -m terraform.policies, and python terraform/tables.py; then read the difference\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
