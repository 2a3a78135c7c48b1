"""What a sweep in the store answers."""

from __future__ import annotations

from pydantic import ValidationError

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.recommend import Recommendation, recommend


def answer(store: SweepStore, sweep_id: str) -> Recommendation:
    """The recommendation with its evidence.

    A sweep of a version whose specs were others is answered without constraints and stages.
    """
    try:
        spec = SweepSpec.trusted(store.sweep(sweep_id).spec)
    except ValidationError:
        spec = None
    return recommend(store.trials(sweep_id), spec, store.curves(sweep_id))
