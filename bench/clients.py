"""The programs that are compared, each run as a process of its own and watched from outside.

A client copies what is in a bucket of the source to the sink until it is through, or until its time is up; what it did
by then is counted at the sink. Whatever is written in Python runs on the same one (interpreter.py). CPU seconds are the
client's own, user and system: of the whole process where it is C or Go, without start and imports where it is Python,
and for our worker those between a tenth and nine tenths of the work.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.stand_ins import (
    KEY,
    REGION,
    ROOT,
    USER,
    Case,
    Servers,
    Site,
    cpu_s_of,
    peak_bytes_of,
    queue,
)

PYTHON = ROOT / ".venv-bench" / "bin" / "python"
"""What every client written in Python runs on; it has what s3nsync needs, boto3 and Akamai's kit."""
LIMIT_S = 20.0
PACED_S = 8.0
LOOK_S = 0.05
WRK_S = 1
AT_ONCE_PER_S = 1e6
STARTED_S = 0.3
"""A started worker has nothing more to do when it has used so much CPU, and uses no more."""

GET_LUA = """
local n = 0
request = function() n = n + 1; return wrk.format("GET", "/%(bucket)s/" .. (n %% %(count)d)) end
"""
PUT_LUA = """
local n, body = 0, string.rep("x", %(size_bytes)d)
request = function() n = n + 1; return wrk.format("PUT", "/%(cpcode)s/" .. (n %% %(count)d), nil, body) end
"""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a client did, and what it cost; `peak_bytes` is 0 where it means nothing."""

    objects: int
    cpu_s: float
    wall_s: float
    peak_bytes: int = 0
    complete: bool = True


class ClientFailed(Exception):
    """A client gave up."""


@dataclass(slots=True)
class Watched:
    """A process while it runs, and what it used when it has ended."""

    popen: subprocess.Popen[str]
    began_s: float
    peak_bytes: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    killed: bool = False

    def finish(self, limit_s: float) -> None:
        """Wait for its end, or kill it when its time is up."""
        while True:
            with contextlib.suppress(OSError):
                self.peak_bytes = max(self.peak_bytes, peak_bytes_of(self.popen.pid))
            pid, status, usage = os.wait4(self.popen.pid, os.WNOHANG)
            self.wall_s = time.perf_counter() - self.began_s
            if pid:
                break
            if self.wall_s > limit_s and not self.killed:
                self.popen.kill()
                self.killed = True
            time.sleep(LOOK_S)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_s = usage.ru_utime + usage.ru_stime


def _run(command: Sequence[str], env: Mapping[str, str], limit_s: float = LIMIT_S) -> tuple[Watched, str]:
    """Run a command to its end; gives what it used and what it printed. Raises ClientFailed if it failed by itself."""
    popen = subprocess.Popen(command, env={**_plain_environment(), **env}, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert popen.stdout is not None
    watched = Watched(popen, time.perf_counter())
    watched.finish(limit_s)
    printed = popen.stdout.read()
    popen.stdout.close()
    if popen.returncode and not watched.killed:
        raise ClientFailed(f"{command[0]} ended with {popen.returncode}")
    return watched, printed


def _plain_environment() -> dict[str, str]:
    """Give this process's environment without what would turn a client's head."""
    heads = ("PYTHON", "AWS_", "NS_", "S3NSYNC", "RCLONE_", "REQUESTS_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    plain = {name: value for name, value in os.environ.items() if not name.upper().startswith(heads)}
    return {**plain, "PYTHONPATH": str(ROOT / "src")}


# --- ours ------------------------------------------------------------------------------------------------------


def worker(servers: Servers, site: Site, case: Case, *, in_flight: int | None = None) -> Measure:
    """Run `s3nsync run` with its default settings on a full queue."""
    more = {"S3NSYNC_WORKER_MAX_IN_FLIGHT": str(in_flight)} if in_flight else {}
    with queue(servers, case, filled=case.count), _worker(servers, site, case, more) as process:
        looks = _look_until_done(servers, case.count, [process])
        time.sleep(0.3)  # the last acks
        peak_bytes = peak_bytes_of(process.pid)
    first, last = _middle(looks, case.count)
    return Measure(last[2] - first[2], last[1] - first[1], last[0] - first[0], peak_bytes)


def worker_on_one(servers: Servers, site: Site, case: Case, *, streams: int = 1) -> Measure:
    """Let an idle `s3nsync run` have the objects of the case, for few and large ones; read by so many GETs at once."""
    with (
        queue(servers, case, filled=0, per_s=AT_ONCE_PER_S, count=case.count) as stream,
        _worker(servers, site, case, {"S3NSYNC_WORKER_RANGED_READS": str(streams)}) as process,
    ):
        _until_idle(process)
        cpu_s, wall_s = cpu_s_of(process.pid), time.perf_counter()
        stream.stream()
        looks = _look_until_done(servers, case.count, [process])
        time.sleep(0.3)
        return Measure(case.count, cpu_s_of(process.pid) - cpu_s, looks[-1][0] - wall_s, peak_bytes_of(process.pid))


def rate_of_workers(servers: Servers, site: Site, case: Case, *, workers: int, in_flight: int, count: int) -> float:
    """Let idle workers share so many Changes; give the objects a second while all of them were busy."""
    more = {"S3NSYNC_WORKER_MAX_IN_FLIGHT": str(in_flight)}
    with ExitStack() as stack:
        stream = stack.enter_context(queue(servers, case, filled=0, per_s=AT_ONCE_PER_S, count=count))
        processes = [stack.enter_context(_worker(servers, site, case, more, number)) for number in range(workers)]
        for process in processes:
            _until_idle(process)
        stream.stream()
        _look_until_done(servers, count, processes)
    done_s = sorted(line.at_s for line in servers.lines("sink") if line.method == "PUT")
    first, last = int(0.2 * count), int(0.9 * count)
    return (last - first) / (done_s[last] - done_s[first])


def lags_s(servers: Servers, site: Site, case: Case, *, per_s: float, count: int) -> list[float]:
    """Send Changes at a rate; give the seconds each took from the queue to the sink's answer, the quickest first."""
    with queue(servers, case, filled=0, per_s=per_s, count=count) as stream, _worker(servers, site, case) as process:
        _until_idle(process)
        sent_s = stream.stream()
        _look_until_done(servers, count, [process])
    done_s = {line.target.rpartition("/")[2]: line.at_s for line in servers.lines("sink") if line.method == "PUT"}
    return sorted(done_s[str(number)] - at_s for number, at_s in enumerate(sent_s))


Look = tuple[float, float, int]


def _look_until_done(servers: Servers, count: int, processes: Sequence[subprocess.Popen[bytes]]) -> list[Look]:
    """Watch workers until so much is stored: clock, their CPU seconds, objects stored, again and again."""
    looks: list[Look] = []
    deadline_s = time.perf_counter() + 6 * LIMIT_S
    while not looks or looks[-1][2] < count:
        if any(each.poll() is not None for each in processes) or time.perf_counter() > deadline_s:
            raise ClientFailed(f"a worker did not finish; its last words:\n{_last_words(servers)}")
        cpu_s = sum(cpu_s_of(each.pid) for each in processes)
        looks.append((time.perf_counter(), cpu_s, servers.stored()))
        time.sleep(LOOK_S)
    return looks


def _last_words(servers: Servers) -> str:
    return "\n".join(path.read_text()[-2000:] for path in sorted(servers.home.glob("worker-*.log")))


def _middle(looks: Sequence[Look], count: int) -> tuple[Look, Look]:
    """Give the first and the last look of the time when the worker was in full swing."""
    inside = [look for look in looks if 0.1 * count <= look[2] <= 0.9 * count]
    started = [look for look in looks if look[2]]
    return (inside[0], inside[-1]) if len(inside) > 1 else (looks[-len(started) - 1], looks[-1])


def _until_idle(process: subprocess.Popen[bytes]) -> None:
    """Wait until a started worker has nothing more to do."""
    before_s = -1.0
    while (now_s := cpu_s_of(process.pid)) > before_s or now_s < STARTED_S:
        before_s = now_s
        time.sleep(0.3)


@contextmanager
def _worker(
    servers: Servers,
    site: Site,
    case: Case,
    more: Mapping[str, str] = {},
    number: int = 0,
) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**_plain_environment(), **_settings(site, case), **more}
    with (servers.home / f"worker-{number}.log").open("wb") as log:
        process = subprocess.Popen([PYTHON, "-m", "s3nsync", "run"], env=environment, stdout=log, stderr=log, cwd=ROOT)
        try:
            yield process
        finally:
            process.kill()  # its queue is empty, and a long poll takes its time
            process.wait(10)


def _settings(site: Site, case: Case) -> dict[str, str]:
    queues = {
        f"S3NSYNC_{name.upper()}_QUEUE_URL": f"{site.queue_url}/000000000000/{name}.fifo"
        for name in ("live", "bulk", "check", "dead")
    }
    trust = {"NS_CA_FILE": str(site.ca_file)} if site.tls else {"NS_INSECURE_HTTP": "1"}
    return {
        **queues,
        **trust,
        "S3NSYNC_REGION": REGION,
        "AWS_ENDPOINT_URL_S3": site.source_url,
        "AWS_ENDPOINT_URL_SQS": site.queue_url,
        "S3NSYNC_AWS_CA_FILE": str(site.ca_file),
        "BUCKET": case.bucket,
        "CPCODE": site.cpcode,
        "NS_HOSTNAME": site.sink_host,
        "NS_USER": USER,
        "NS_KEY": KEY,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
    }


def data_path(_servers: Servers, site: Site, case: Case) -> Measure:
    """Run engine, S3 reader and NetStorage client without a queue: path_client.py."""
    command = [str(PYTHON), "-m", "bench.path_client", "--source", site.source_url, "--target", site.sink_host]
    command += ["--ca-file", str(site.ca_file), "--bucket", case.bucket, "--count", str(case.count)]
    command += ["--cpcode", site.cpcode, "--user", USER, "--key", KEY, "--in-flight", str(in_flight_of(case))]
    watched, printed = _run(command, {})
    return Measure(case.count, **json.loads(printed), peak_bytes=watched.peak_bytes)


def in_flight_of(case: Case) -> int:
    """Give how many objects of a size every client but our worker, which has its own default, has in flight."""
    return 64 if case.size_bytes <= 4096 else 32 if case.size_bytes < 1 << 20 else 16


# --- the others ------------------------------------------------------------------------------------------------


def rclone_to_s3(servers: Servers, site: Site, case: Case) -> Measure:
    """Run rclone from S3 to S3, with all checks off."""
    return _rclone(servers, site, case, f"dst:{site.cpcode}", {**_rclone_s3("DST", site.sink_url)})


def rclone_to_netstorage(servers: Servers, site: Site, case: Case) -> Measure:
    """Run rclone from S3 to NetStorage, with all checks off; its NetStorage side holds itself back."""
    obscured = subprocess.run(["rclone", "obscure", KEY], capture_output=True, text=True, check=True)  # noqa: S607
    environment = {
        "RCLONE_CONFIG_NS_TYPE": "netstorage",
        "RCLONE_CONFIG_NS_PROTOCOL": "https" if site.tls else "http",
        "RCLONE_CONFIG_NS_HOST": f"{site.sink_host}/{site.cpcode}",
        "RCLONE_CONFIG_NS_ACCOUNT": USER,
        "RCLONE_CONFIG_NS_SECRET": obscured.stdout.strip(),
    }
    return _rclone(servers, site, case, "ns:", environment)


def _rclone(servers: Servers, site: Site, case: Case, to: str, environment: Mapping[str, str]) -> Measure:
    flags = ["--transfers", str(in_flight_of(case)), "--no-check-dest", "--ignore-checksum", "--use-server-modtime"]
    flags += ["--s3-no-head", "--s3-no-head-object", "--s3-no-check-bucket", "--s3-upload-cutoff", "5G"]
    flags += ["--ca-cert", str(site.ca_file), "--retries", "1", "--low-level-retries", "1"]
    source = _rclone_s3("SRC", site.source_url)
    home = {"RCLONE_CONFIG": str(servers.home / "rclone.conf")}
    limit_s = 6 * LIMIT_S if case.count == 1 else PACED_S if to == "ns:" else LIMIT_S
    command = ["rclone", "copy", f"src:{case.bucket}", to, *flags]
    watched, _ = _run(command, {**home, **source, **environment}, limit_s)
    done = servers.stored()
    return Measure(done, watched.cpu_s, watched.wall_s, watched.peak_bytes, complete=not watched.killed)


def _rclone_s3(name: str, url: str) -> dict[str, str]:
    parts = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": url, "REGION": REGION, "LIST_VERSION": "2"}
    parts |= {"ACCESS_KEY_ID": "bench", "SECRET_ACCESS_KEY": "bench"}
    return {f"RCLONE_CONFIG_{name}_{part}": value for part, value in parts.items()}


def boto_and_kit(_servers: Servers, site: Site, case: Case) -> Measure:
    """Run boto3 and Akamai's kit in sixteen threads."""
    watched, printed = _run(_usual_way("pool", site, case), _usual_environment(site), 6 * LIMIT_S)
    return Measure(case.count, **json.loads(printed), peak_bytes=watched.peak_bytes)


def poc(servers: Servers, site: Site, case: Case) -> Measure:
    """Work as the proof of concept documents it; its sleep of 20 s after 5 messages is added to the wall time."""
    with queue(servers, case, filled=case.count):
        watched, printed = _run(_usual_way("poc", site, case), _usual_environment(site), 6 * LIMIT_S)
    found = json.loads(printed)
    return Measure(case.count, found["cpu_s"], found["wall_s"] + case.count / 5 * 20.0, watched.peak_bytes)


def _usual_way(way: str, site: Site, case: Case) -> list[str]:
    command = [str(PYTHON), str(ROOT / "bench" / "usual_way.py"), way, "--source", site.source_url]
    command += [
        "--target",
        site.sink_host,
        "--bucket",
        case.bucket,
        "--count",
        str(case.count),
        "--cpcode",
        site.cpcode,
    ]
    command += ["--user", USER, "--key", KEY, "--queue", site.queue_url]
    return [*command, "--queue-url", f"{site.queue_url}/000000000000/live.fifo"]


def _usual_environment(site: Site) -> dict[str, str]:
    trust = {name: str(site.ca_file) for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")}
    return {**trust, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}


def wrk(servers: Servers, site: Site, case: Case) -> Measure:
    """Run wrk twice, GET then PUT, unsigned, each body thrown away: what C costs; figures for one object of each."""
    cpu_s = wall_s = 0.0
    done = []
    for method, url, lua in (("GET", site.source_url, GET_LUA), ("PUT", site.sink_url, PUT_LUA)):
        script = servers.home / "wrk.lua"
        values = {"bucket": case.bucket, "count": case.count, "size_bytes": case.size_bytes, "cpcode": site.cpcode}
        script.write_text(lua % values)
        command = ["wrk", "-t1", f"-c{in_flight_of(case)}", f"-d{WRK_S}s", "-s", str(script), url]
        watched, _ = _run(command, {})
        log = servers.lines("source" if method == "GET" else "sink")
        done.append(sum(line.status < 300 for line in log))
        cpu_s += watched.cpu_s / done[-1]
        wall_s += watched.wall_s / done[-1]
    return Measure(min(done), cpu_s * min(done), wall_s * min(done), complete=False)


def curl(_servers: Servers, site: Site, case: Case) -> Measure:
    """Run `curl | curl -T -`, object by object."""
    flags = f"-sSf --cacert {site.ca_file}"
    script = "; ".join(
        f"curl {flags} {site.source_url}/{case.bucket}/{key} | curl {flags} -T - {site.sink_url}/{site.cpcode}/{key}"
        for key in case.keys
    )
    watched, _ = _run(["sh", "-c", script], {}, 6 * LIMIT_S)
    return Measure(case.count, watched.cpu_s, watched.wall_s)


Client = Callable[[Servers, Site, Case], Measure]


def missing() -> list[str]:
    """Give the programs that are not installed."""
    found = [name for name in ("rclone", "wrk", "curl") if not shutil.which(name)]
    return found if PYTHON.exists() else [*found, ".venv-bench"]
