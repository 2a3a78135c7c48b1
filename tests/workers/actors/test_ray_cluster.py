"""The private cluster of this machine is out of reach for other users and other hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SCRIPT = """
import json, os, psutil, time
from pathlib import Path
from evenload.workers.actors.ray_cluster import connect
import ray
assert connect(None)
ray.get(ray.remote(lambda: 1).remote())
time.sleep(3)
session = Path(ray._private.worker._global_node.get_session_dir_path())
listening = set()
for one in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    try:
        found = one.net_connections(kind="inet")
    except psutil.Error:
        continue
    listening |= {c.laddr.ip for c in found if c.status == "LISTEN"}
longest = max(len(str(path)) for path in (session / "sockets").iterdir())
print(json.dumps({
    "outer": str(session.parents[1]), "mode": session.parents[1].stat().st_mode & 0o777,
    "listening": sorted(listening), "longest": longest,
}))
"""


def test_its_folder_is_private_its_paths_are_short_and_it_listens_here_only() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["mode"] == 0o700
    assert found["longest"] <= 100
    assert {ip.removeprefix("::ffff:") for ip in found["listening"]} == {"127.0.0.1"}
    assert not Path(found["outer"]).exists(), "it must be removed at the end"
