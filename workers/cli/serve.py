"""`evenload serve`: runs the sweeps that were submitted to the store, as a service."""

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import StoreUnavailable
from evenload.pipeline.extras import WORKERS, require
from evenload.pipeline.redaction import start_logging
from evenload.pipeline.settings import Settings
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.cli.session import load_settings, open_store

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0


def serve(
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster; default: this machine")
    ] = None,
    join: Annotated[
        bool,
        typer.Option(help="make this host a node of the cluster, without cores, as Ray requires"),
    ] = False,
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="trials to train at once; default: one per core or GPU"),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(envvar="EVENLOAD_DEVICE", help="meaning of `device: auto` in a sweep"),
    ] = "auto",
    health_file: Annotated[
        Path, typer.Option(help="touched after every round in which the store and Ray answered")
    ] = Path("/tmp/evenload-serve.healthy"),
    home: Annotated[Path | None, typer.Option(help="folder with store and shards")] = None,
) -> None:
    """Run submitted sweeps until Ctrl-C or SIGTERM.

    If the store, MLflow or Ray does not answer, the service tries again later. SIGTERM lets running
    trials write checkpoints; the next `evenload serve` resumes from them.
    """
    require(*WORKERS)
    # With torch, Ray and MLflow, which --help need not wait for.
    from evenload.pipeline.sweep.alarming import alarming
    from evenload.pipeline.sweep.projection import projecting
    from evenload.workers.cli.admission import Admission, cap_priorities
    from evenload.workers.cli.coordinator_process import Cluster, CoordinatorProcess
    from evenload.workers.cli.limited_calls import LimitedCalls
    from evenload.workers.cli.listing import Listing

    settings = load_settings(home)
    start_logging(settings)
    has_cuda = None if device == "auto" else device == "cuda"
    cluster = Cluster(address, join, slots, has_cuda)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    store = _awaited_store(settings, stop)
    if store is None:
        return
    listing = Listing(LimitedCalls(settings).ask, settings, has_cuda)
    admission = Admission(store, listing)
    logger.info("serving the sweeps in %s", shown_address(settings.store_url))
    with (
        projecting(store, settings) as projection,
        alarming(store, settings),
        CoordinatorProcess(settings, cluster, health_file) as coordinator,
    ):
        while not stop.wait(POLL_SECONDS):
            coordinator.ensure_running()
            cap_priorities(store, settings.max_priority)
            admission.process_sweeps()
        projection.is_hurried = True


def _awaited_store(settings: Settings, stop: threading.Event) -> SweepStore | None:
    """The store, as soon as the database answers, or None if the signal came first."""
    while True:
        try:
            return open_store(settings, create=True)
        except StoreUnavailable as error:
            logger.warning("%s; trying again", error)
            if stop.wait(POLL_SECONDS):
                return None
