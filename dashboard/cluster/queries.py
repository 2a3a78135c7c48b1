"""Reads the data of the cluster page: presence, snapshot and health checks. Cached."""

import shutil
import time
from typing import NamedTuple

import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.cluster import health
from evenload.dashboard.cluster.health import Check
from evenload.dashboard.run import queries as run_queries
from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings, current_settings
from evenload.pipeline.states import DeedRecord, PresenceRecord, Snapshot, TrialRecord


class Cluster(NamedTuple):
    """Coordinators, workers and trials at one moment of the database's clock."""

    present: list[PresenceRecord]
    snapshot: Snapshot
    held: list[TrialRecord]  # by workers
    seconds: float  # how long the store took to answer


def cluster() -> Cluster:
    """The state of the cluster.  Raises: SpecError: there is no store, or it does not answer"""
    return _cluster(current_settings().shown_store_url)


def deeds() -> list[DeedRecord]:
    return _deeds(current_settings().shown_store_url)


def checks() -> list[Check]:
    """The checks of all parts, also if the store does not answer."""
    settings = current_settings()
    found: list[Check] = []
    try:
        here = cluster()
    except SpecError as error:
        found.append(health.store_down(str(error)))
    else:
        found += [
            health.store_check(shown_address(settings.shown_store_url), here.seconds),
            health.coordinator_check(here.present, here.snapshot),
            health.workers_check(here.present, here.snapshot),
        ]
    found.append(_mlflow(settings, is_store_here=len(found) > 1))
    root = next(path for path in (settings.root, *settings.root.parents) if path.exists())
    found.append(health.disk_check(str(root), shutil.disk_usage(root).free))
    return found


def _mlflow(settings: Settings, is_store_here: bool) -> Check:
    """The check of MLflow, whose health is queried at most every half minute."""
    failed = 0.0
    if is_store_here:
        failed = sum(one.facts.get("tracking_errors", 0) for one in cluster().present)
    where = shown_address(settings.mlflow_uri)
    return health.mlflow_check(where, run_queries.mlflow_problem(), int(failed))


@st.cache_data(ttl=queries.FRESH_SECONDS, max_entries=4, show_spinner=False)
def _cluster(url: str) -> Cluster:
    store = queries.store()
    start = time.monotonic()
    present, snapshot = store.present(), store.snapshot(max_unstarted=0)
    return Cluster(present, snapshot, store.held(), time.monotonic() - start)


@st.cache_data(ttl=queries.FRESH_SECONDS, max_entries=4, show_spinner=False)
def _deeds(url: str) -> list[DeedRecord]:
    return queries.store().deeds()
