"""An AWS for `terraform apply`: moto's server with the gaps filled that stop the provider or leave its plans unequal.

Run as a program in the environment of requirements/moto.txt: `aws_stand_in.py PORT`. Each function below fills one gap
and says what moto (5.2.1) does, what AWS does, and what Terraform makes of the difference. Nothing here is more lenient
than moto; a gap that moto closes one day only makes its function superfluous.

What it cannot show: it enforces no permission, checks no ARN for existence, evaluates no metric, runs no task, and
delivers no event. So an apply against it proves that the module is whole, stable and what README.md says, not that AWS
would let it work.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"

from moto.applicationautoscaling.responses import (  # type: ignore[import-not-found]
    ApplicationAutoScalingResponse as ScalingResponse,
)
from moto.awslambda.models import LambdaFunction  # type: ignore[import-not-found]
from moto.ecs.models import Service  # type: ignore[import-not-found]
from moto.ecs.responses import EC2ContainerServiceResponse as EcsResponse  # type: ignore[import-not-found]
from moto.moto_server.werkzeug_app import (  # type: ignore[import-not-found]
    DomainDispatcherApplication,
    create_backend_app,
)
from moto.s3.responses import S3Response  # type: ignore[import-not-found]
from moto.sqs.models import Queue  # type: ignore[import-not-found]
from werkzeug.serving import run_simple  # type: ignore[import-not-found]

Wrapper = Callable[..., Any]
"""Stands around a method of moto's: takes the method, then what the method takes."""


def around(owner: type, name: str, wrapper: Wrapper) -> None:
    """Put `wrapper` in the place of a method; it gets the method as its first argument."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def method(*args: Any, **named: Any) -> Any:
        return wrapper(original, *args, **named)

    setattr(owner, name, method)


# --- SQS -------------------------------------------------------------------------------------------------------


def sqs_redrive_allow_policy() -> None:
    """Keep RedriveAllowPolicy: moto forgets it, and the provider waits for it for ever."""
    Queue.BASE_ATTRIBUTES = [*Queue.BASE_ATTRIBUTES, "RedriveAllowPolicy"]
    Queue.redrive_allow_policy = None


def sqs_policy_survives() -> None:
    """Keep Policy when other attributes are set: moto drops it, AWS changes only what the call names."""

    def set_attributes(original: Wrapper, queue: Any, attributes: Mapping[str, str], now: Any = None) -> None:
        before = getattr(queue, "policy", None)
        original(queue, attributes, now)
        if "Policy" not in attributes:
            queue.policy = before

    around(Queue, "_set_attributes", set_attributes)


def sqs_json_without_spaces() -> None:
    """Give RedrivePolicy back without spaces, as AWS does: the provider compares texts."""
    original = Queue.attributes.fget

    def attributes(queue: Any) -> dict[str, Any]:
        found: dict[str, Any] = original(queue)
        if found.get("RedrivePolicy"):
            found["RedrivePolicy"] = json.dumps(queue.redrive_policy, separators=(",", ":"))
        if not found.get("RedriveAllowPolicy"):
            found.pop("RedriveAllowPolicy", None)
        return found

    Queue.attributes = property(attributes)


# --- Application Auto Scaling ----------------------------------------------------------------------------------


def scaling_tags() -> None:
    """Answer the three tag calls: moto has none, and the provider reads tags of everything that it makes."""
    tags: dict[str, dict[str, str]] = {}

    def of(response: Any) -> dict[str, str]:
        return tags.setdefault(response._get_param("ResourceARN"), {})

    def list_tags(response: Any) -> str:
        return json.dumps({"Tags": of(response)})

    def tag(response: Any) -> str:
        of(response).update(response._get_param("Tags"))
        return "{}"

    def untag(response: Any) -> str:
        for key in response._get_param("TagKeys"):
            of(response).pop(key, None)
        return "{}"

    def register(original: Wrapper, response: Any) -> str:
        answer: str = original(response)
        tags.setdefault(json.loads(answer)["ScalableTargetARN"], {}).update(response._get_param("Tags") or {})
        return answer

    ScalingResponse.list_tags_for_resource = list_tags
    ScalingResponse.tag_resource = tag
    ScalingResponse.untag_resource = untag
    around(ScalingResponse, "register_scalable_target", register)


# --- ECS -------------------------------------------------------------------------------------------------------


def ecs_zone_rebalancing() -> None:
    """Say that services do not rebalance zones: moto says nothing, AWS says DISABLED."""
    Service.availability_zone_rebalancing = "DISABLED"


def ecs_capacity_providers() -> None:
    """Keep what a service is created with: moto drops its capacity providers and its deployment's settings."""

    def create(original: Wrapper, response: Any) -> Any:
        answer = original(response)
        service = response.ecs_backend.describe_services(
            response._get_param("cluster"), [response._get_param("serviceName")]
        )[0][0]
        service.capacity_provider_strategy = response._get_param("capacityProviderStrategy") or []
        service.deployment_configuration = response._get_param("deploymentConfiguration") or {}
        if service.capacity_provider_strategy:
            service.launch_type = None  # AWS: one or the other
        return answer

    around(EcsResponse, "create_service", create)


# --- S3 --------------------------------------------------------------------------------------------------------


def s3_eventbridge_is_shown() -> None:
    """Show that EventBridge is on: moto keeps it, and leaves it out of the answer."""

    def get_notification(original: Wrapper, response: Any) -> Any:
        status, headers, body = original(response)
        stored = response.backend.get_bucket_notification_configuration(response.bucket_name)
        if stored is None or stored.event_bridge is None:
            return status, headers, body
        text = body.decode() if isinstance(body, bytes) else body
        opening, closing = text[: text.index("<NotificationConfiguration")], "</NotificationConfiguration>"
        element = text[len(opening) :]
        if closing not in element:  # an empty element: open it
            element = element.rstrip().removesuffix("/>") + ">" + closing
        shown = opening + element.replace(closing, f"<EventBridgeConfiguration/>{closing}")
        kept = {name: value for name, value in headers.items() if name.lower() != "content-length"}
        return status, kept, shown

    around(S3Response, "get_bucket_notification", get_notification)


# --- Lambda ----------------------------------------------------------------------------------------------------


def lambda_logging_config() -> None:
    """Keep LoggingConfig: moto forgets it, so every plan would set it again."""

    def init(original: Wrapper, function: Any, account_id: str, spec: Mapping[str, Any], **named: Any) -> None:
        default = {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{spec['FunctionName']}"}
        function.logging_config = spec.get("LoggingConfig") or default
        original(function, account_id, spec, **named)

    def get(original: Wrapper, function: Any, *args: Any, **named: Any) -> dict[str, Any]:
        return {**original(function, *args, **named), "LoggingConfig": function.logging_config}

    def update(original: Wrapper, function: Any, changes: Mapping[str, Any]) -> Any:
        function.logging_config = changes.get("LoggingConfig", function.logging_config)
        return original(function, changes)

    around(LambdaFunction, "__init__", init)
    around(LambdaFunction, "get_configuration", get)
    around(LambdaFunction, "update_configuration", update)


GAPS = (
    sqs_redrive_allow_policy,
    sqs_policy_survives,
    sqs_json_without_spaces,
    scaling_tags,
    ecs_zone_rebalancing,
    ecs_capacity_providers,
    s3_eventbridge_is_shown,
    lambda_logging_config,
)


def main(arguments: list[str]) -> None:
    """Fill the gaps and serve on the loopback until ended."""
    for fill in GAPS:
        fill()
    application = DomainDispatcherApplication(create_backend_app)
    run_simple("127.0.0.1", int(arguments[0]), application, threaded=True)


if __name__ == "__main__":
    main(sys.argv[1:])
