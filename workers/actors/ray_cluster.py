"""A Ray cluster to work on: a private one on this machine, or one that is running."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 100 * 2**20  # results go through the store and files; Ray's minimum is 75 MiB
JOIN_SECONDS = 60.0
NODE_HEALTH = "http://127.0.0.1:52365/api/local_raylet_healthz"
QUIET = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}


def connect(address: str | None) -> bool:
    """Joins a cluster, or starts one here; returns whether it is ours to shut down.

    A cluster that this process has joined already is used as it is.

    Raises:   ConnectionError: nothing answers at `address`
    """
    if ray.is_initialized():
        return False
    if address is not None:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        return True
    ray.init("local", object_store_memory=OBJECT_STORE_BYTES, **QUIET)
    return True


@contextmanager
def joined(address: str) -> Iterator[None]:
    """This host as a node of the cluster, without cores or GPUs: drivers run on nodes only.

    Raises:   ConnectionError: the node did not come up
    """
    script = "from ray.scripts.scripts import main; main()"
    nothing = ["--num-cpus=0", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    options = [f"--address={address}", *nothing, "--block"]
    # Of its own session: who tells the coordinator to stop must not take its node away.
    node = subprocess.Popen(
        [sys.executable, "-c", script, "start", *options],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _await_node(node, address)
        yield
        ray.shutdown()
    finally:
        node.terminate()
        node.wait()


def _await_node(node: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + JOIN_SECONDS
    while node.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(NODE_HEALTH, timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    raise ConnectionError(f"this host did not become a node of {address}; is that cluster there?")


def num_slots() -> int:
    """How many trials can train at once by default: one a GPU, one a core where there is none."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster: id, host, whether they live, and what they offer."""
    return [
        {
            "node_id": node["NodeID"],
            "host": node["NodeManagerHostname"],
            "is_alive": node["Alive"],
            "resources": {
                name: amount
                for name, amount in node["Resources"].items()
                if name in ("CPU", "GPU", "memory")
            },
        }
        for node in ray.nodes()
    ]


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that will be taken away: spot instances, scaled-down groups.

    Ray has no public call for it (2.60); Ray Train asks the same way.
    """
    return frozenset(ray._private.state.state.get_draining_nodes())


def probe_ray(address: str) -> tuple[bool, str]:
    """Whether a running cluster can be used, and what it offers."""
    try:
        ours = connect(address)
    except (ConnectionError, RuntimeError) as error:
        return False, f"{address} does not answer: {error}"
    resources = ray.cluster_resources()
    if ours:
        ray.shutdown()
    cores, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return True, f"{address} with {cores:.0f} cores and {gpus:.0f} GPUs"
