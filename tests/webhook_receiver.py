"""A receiver of alarms on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

PATH = "/services/T000/B000/a-secret-path"


class Receiver(ThreadingHTTPServer):
    """Answers with the statuses that are left in `answers`, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.answers: list[int] = []
        self.got: list[dict[str, Any]] = []
        self.delay_seconds = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{PATH}"


class Post(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay_seconds)
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.got.append(body | {"key": self.headers["Idempotency-Key"]})
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def receiving() -> Iterator[Receiver]:
    server = Receiver()
    Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
