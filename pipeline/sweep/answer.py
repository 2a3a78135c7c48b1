"""Reads a sweep from the store and recommends a setting."""

from __future__ import annotations

from pydantic import ValidationError

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.recommend import Recommendation, recommend


def answer(store: SweepStore, sweep_id: str) -> Recommendation:
    """The recommendation with its evidence.

    If a former version stored the sweep and this one cannot read its spec, the recommendation
    regards no constraints and no confirm stage.
    """
    try:
        spec = SweepSpec.trusted(store.sweep(sweep_id).spec)
    except ValidationError:
        spec = None
    return recommend(store.trials(sweep_id), spec, store.curves(sweep_id))
