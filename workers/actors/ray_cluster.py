"""Connects to a Ray cluster: a private one on this machine, or a running one."""

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import ray
from ray._private import ray_constants

from evenload.pipeline.processes import end_with_parent

OBJECT_STORE_BYTES = 100 * 2**20  # small, because results use the store and files; Ray needs 75 MiB
JOIN_SECONDS = 60.0
STARTS = 3  # a busy machine misses the 30 seconds that Ray gives its node
NODE_HEALTH = "http://127.0.0.1:52365/api/local_raylet_healthz"
QUIET = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}


def connect(address: str | None) -> bool:
    """Connects to a cluster, or starts one here. Returns True if the caller must shut it down.

    If this process is already connected to a cluster, nothing changes.

    Raises:   ConnectionError: nothing answers at `address`, or Ray did not start here
    """
    if ray.is_initialized():
        return False
    if address is not None:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        return True
    _start_private()
    return True


def _start_private() -> None:
    """Starts a cluster that no other user and no other host reaches.

    Ray makes its folder and sockets accessible to everybody, so they lie in a folder that is not.
    Its name is short, because the path of a socket has at most 107 bytes.
    """
    folder = tempfile.mkdtemp(prefix="evl-", dir=os.environ.get("RAY_TMPDIR", "/tmp"))
    atexit.register(_remove, folder)
    everywhere = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # its servers listen on 127.0.0.1 only
    try:
        for number in range(STARTS):
            if _starts_in(f"{folder}/{number}"):
                return
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = everywhere
    raise ConnectionError(
        f"Ray did not start on this machine in {STARTS} attempts of 30 seconds each; run the "
        "command again when the machine has less to do"
    )


def _starts_in(folder: str) -> bool:
    """Starts Ray. False: the machine was too busy, and nothing of this start is left."""
    try:
        ray.init("local", object_store_memory=OBJECT_STORE_BYTES, _temp_dir=folder, **QUIET)
    except Exception as error:  # Ray raises no narrower class when its own time limit is over
        if "timed out during startup" not in str(error):
            raise
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it ended by itself
                if folder in " ".join(child.cmdline()):
                    child.kill()
        return False
    return True


def _remove(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def as_cluster_node(address: str) -> Iterator[None]:
    """Makes this host a node of the cluster, because a driver must run on a node.

    The node offers no cores and no GPUs.

    Raises:   ConnectionError: the node did not start
    """
    script = "from ray.scripts.scripts import main; main()"
    nothing = ["--num-cpus=0", "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    options = [f"--address={address}", *nothing, "--block"]
    # In a separate session, so that a signal to the coordinator does not end its node.
    node = subprocess.Popen(
        [sys.executable, "-c", script, "start", *options],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=end_with_parent,
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
    raise ConnectionError(
        f"this host did not become a node of {address}; check that the cluster is running"
    )


def num_slots() -> int:
    """Default number of trials that train at once: one per GPU, or one per core without GPUs."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0) or resources.get("CPU", 1)))


def nodes() -> list[dict[str, Any]]:
    """The nodes of the cluster with their id, host, state and resources."""
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
    """Ids of the nodes that are about to be removed, such as spot instances.

    Ray (2.60) has no public call for this; Ray Train uses the same private one.
    """
    return frozenset(ray._private.state.state.get_draining_nodes())


def has_gpus(address: str) -> bool:
    """Whether a node of the cluster has a GPU now.  Raises: ConnectionError: nothing answers"""
    is_ours = connect(address)
    found = ray.cluster_resources().get("GPU", 0) > 0
    if is_ours:
        ray.shutdown()
    return found


def probe_ray(address: str) -> tuple[bool, str]:
    """Whether the cluster can be used, and a description of its resources."""
    try:
        is_ours = connect(address)
    except (ConnectionError, RuntimeError) as error:
        return False, f"{address} does not answer: {error}"
    resources = ray.cluster_resources()
    if is_ours:
        ray.shutdown()
    cores, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    return True, f"{address} with {cores:.0f} cores and {gpus:.0f} GPUs"
