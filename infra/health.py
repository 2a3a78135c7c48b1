"""Checks the health of a service: exit code 0 if it works. The slim base image has no curl.

health.py answers URL [JSON]    the URL answers a request (with JSON: a POST) with 200
health.py fresh FILE SECONDS    the file was touched within the last SECONDS
"""

from __future__ import annotations

import os
import sys
import time
import urllib.request
from collections.abc import Callable


def answers(url: str, body: str | None = None) -> bool:
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    data = body.encode() if body is not None else None
    with urllib.request.urlopen(request, data, timeout=10) as response:
        return bool(response.status == 200)


def fresh(path: str, seconds: str) -> bool:
    return time.time() - os.lstat(path).st_mtime < float(seconds)


CHECKS: dict[str, Callable[..., bool]] = {"answers": answers, "fresh": fresh}

if __name__ == "__main__":
    try:
        sys.exit(0 if CHECKS[sys.argv[1]](*sys.argv[2:]) else 1)
    except OSError as error:
        sys.exit(f"unhealthy: {error}")
