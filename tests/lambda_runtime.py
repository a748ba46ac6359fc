"""Lambda's runtime interface, small: enough to run a function's archive under AWS's own Python client for it.

AWS's client (`awslambdaric`) runs in a process of its own and asks this server for events, as it does in Lambda:
`GET …/invocation/next` waits for one, `POST …/invocation/ID/response` or `…/error` answers it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWER_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What became of one call: `error` is the type Lambda would record, None if all went well."""

    payload: dict[str, Any]
    error: str | None = None


@dataclass
class Runtime:
    """A running function."""

    log_path: Path
    limit_s: float
    events: queue.Queue[bytes | None] = field(default_factory=queue.Queue)
    answers: queue.Queue[Answer] = field(default_factory=queue.Queue)

    def invoke(self, event: Mapping[str, object]) -> Answer:
        """Hand over one event and wait for its answer."""
        self.events.put(json.dumps(event).encode())
        return self.answers.get(timeout=ANSWER_S)

    def log_lines(self) -> list[dict[str, Any]]:
        """Read the lines of JSON that the function has logged."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]


def _handler(runtime: Runtime) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        number = 0

        def do_GET(self) -> None:
            """Wait for the next event."""
            event = runtime.events.get()
            if event is None:  # the end: nobody is there to be answered
                self.close_connection = True
                return
            self._answer(
                200,
                event,
                {
                    "Content-Type": "application/json",
                    "Lambda-Runtime-Aws-Request-Id": "r-1",
                    "Lambda-Runtime-Deadline-Ms": str(int((time.time() + runtime.limit_s) * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:000000000000:function:f",
                    "Lambda-Runtime-Trace-Id": "Root=1-0-0",
                },
            )

        def do_POST(self) -> None:
            """Take an answer or an error."""
            body = json.loads(self._body())
            failed = self.path.endswith("/error")
            runtime.answers.put(Answer(body, body["errorType"] if failed else None))
            self._answer(202, b"", {})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class's name
            """Keep quiet."""

    return Handler


@contextlib.contextmanager
def running(
    archive: Path, handler: str, environment: Mapping[str, str], scratch: Path, limit_s: float = 30.0
) -> Iterator[Runtime]:
    """Unpack the archive and run its handler until the block ends."""
    task = scratch / "task"
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(task)
    runtime = Runtime(scratch / "function.log", limit_s)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(runtime))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    inherited = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    lambdas_own = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "LAMBDA_TASK_ROOT": str(task),
        "PYTHONPATH": str(task),  # else the s3nsync that is installed beside the tests would be found
        "_HANDLER": handler,
        "AWS_LAMBDA_FUNCTION_NAME": "f",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_LOG_GROUP_NAME": "g",
        "AWS_LAMBDA_LOG_STREAM_NAME": "s",
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with runtime.log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", handler],
            cwd=task,
            env=inherited | lambdas_own | dict(environment),
            stdout=log,
            stderr=log,
        )
        try:
            yield runtime
        finally:
            process.kill()
            process.wait()
            runtime.events.put(None)
            server.shutdown()
            thread.join()
            server.server_close()
