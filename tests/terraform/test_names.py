"""Names that the module and the programs must share: metrics, dimensions and settings."""

from __future__ import annotations

import re
from pathlib import Path

from s3nsync import intake
from s3nsync.lanes import LaneFigures
from s3nsync.metrics import UNITS, lane_values
from s3nsync.settings import OTHER_VARIABLES, describe

MODULE = Path(__file__).resolve().parents[2] / "terraform" / "modules" / "s3nsync"
SOURCES = {path.name: path.read_text() for path in MODULE.glob("*.tf")}

METRIC = re.compile(
    r"""namespace\s*=\s*"s3nsync"[,\s]*metric(?:_name)?\s*=\s*"(\w+)"   # an alarm's
      | \["s3nsync",\s*"(\w+)",\s*"Service",                           # a panel's""",
    re.VERBOSE,
)
METRIC_OF_ACCOUNT = re.compile(r'\["s3nsync", "(\w+)", "Service", var\.name, "Account", account\b')
NAMESPACE = re.compile(r'(?:namespace\s*=\s*|\[)"s3nsync"')
VARIABLE = re.compile(r"\b(?:S3NSYNC|NS)_[A-Z_]+[A-Z]\b")


def test_alarms_and_panels_watch_metrics_that_are_written() -> None:
    """Every metric of ours that an alarm or a panel names is one that the worker writes, and each is recognised."""
    operations = SOURCES["operations.tf"]
    names = [alarm or panel for alarm, panel in METRIC.findall(operations)]
    assert {"lag_s", "heartbeat", "objects", "bytes", "retries", "buried"} <= set(names) <= set(UNITS)
    assert len(names) == len(NAMESPACE.findall(operations))


def test_the_panel_of_accounts_shows_what_a_lane_writes() -> None:
    """Its metrics have the dimension Account, and are a lane's; no other panel's are."""
    lane = set(lane_values(LaneFigures(window=1, in_use=0, waiting=0, cuts=0, rests=0), None))
    shown = METRIC_OF_ACCOUNT.findall(SOURCES["operations.tf"])
    assert {"window", "waiting", "window_cuts"} <= set(shown) <= lane
    assert sorted(shown) == sorted(panel for _, panel in METRIC.findall(SOURCES["operations.tf"]) if panel in lane)


def test_tasks_get_settings_that_there_are() -> None:
    """Every variable that the module sets for tasks, or lets users set, is a setting's or a documented one."""
    known = {name for setting in describe() for name in setting.env} | set(OTHER_VARIABLES)
    named = {name for source in ("worker.tf", "variables.tf") for name in VARIABLE.findall(SOURCES[source])}
    of_the_secret = {"NS_HOSTNAME", "NS_USER", "NS_KEY"}
    general = {name.replace("_VIDEO", "_<NAME>") for name in named}  # the example of an account
    assert general - of_the_secret <= known
    assert {"S3NSYNC_LIVE_QUEUE_URL", "S3NSYNC_WORKER_GRACE_S", "NS_SECRET", "NS_BYTES_PER_S"} <= named


def test_users_may_give_every_setting_of_the_worker_that_the_module_does_not_set() -> None:
    """A name that is missing in the variable's rule is refused at plan, one too many by each task at its start."""
    rule = re.search(r"contains\(\[([^]]*)\], name\)", SOURCES["variables.tf"])
    assert rule is not None
    of_the_worker = re.compile("S3NSYNC_(WORKER|LOG|METRICS)_")
    there_are = {name for setting in describe() for name in setting.env if of_the_worker.match(name)}
    set_by_the_module = {name for name in VARIABLE.findall(SOURCES["worker.tf"]) if of_the_worker.match(name)}
    never = {"S3NSYNC_METRICS_EMF"}  # without them every alarm is silent
    assert set(VARIABLE.findall(rule[1])) == there_are - set_by_the_module - never


def test_the_function_gets_settings_that_it_reads() -> None:
    """Every variable of the function's environment is one that its code asks for."""
    block = re.search(r"environment \{(.*?)\n  \}", SOURCES["intake.tf"], re.DOTALL)
    assert block is not None
    named = re.findall(r"^ +([A-Z0-9_]+) += ", block[1], re.MULTILINE)
    code = Path(intake.__file__).read_text()
    assert len(named) == 4
    assert [name for name in named if f'"{name}"' not in code] == []
