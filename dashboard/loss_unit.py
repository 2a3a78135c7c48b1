"""The unit of losses on all pages: the viewer chooses it once, and it stays in the address."""

import math
from collections.abc import Iterable

import streamlit as st

from evenload.pipeline.figures.loss_unit import BITS_PER_BYTE, NATS_PER_TOKEN, LossUnit
from evenload.pipeline.states import TrialRecord

BITS, NATS = BITS_PER_BYTE.name, NATS_PER_TOKEN.name
KEPT = "kept-loss-unit"  # in the session: a widget forgets its value on pages without it


def choose_loss_unit() -> None:
    """A switch, for pages that show losses."""
    chosen = st.segmented_control(
        "Loss in",
        [BITS, NATS],
        default=st.session_state.get(KEPT, BITS),
        key="loss",
        bind="query-params",
        required=True,
        label_visibility="collapsed",
    )
    st.session_state[KEPT] = chosen if chosen in (BITS, NATS) else BITS


def loss_unit(trials: Iterable[TrialRecord], given: str = BITS) -> LossUnit:
    """The chosen unit, or the given one where the bytes of a token are not known or differ.

    Args:     given: the unit of the values that are to be shown
    """
    chosen = st.session_state.get(KEPT, BITS)
    ratios = {round(ratio, 4) for trial in trials if (ratio := bits_of_a_nat(trial)) > 0}
    if chosen == given or len(ratios) != 1:
        return LossUnit(given, 1.0)
    (ratio,) = ratios
    return LossUnit(chosen, ratio if chosen == BITS else 1 / ratio)


def unit_of_runs(runs: Iterable[object], given: str = BITS) -> LossUnit:
    """The same for runs of which some may be recorded; their tokens have unknown bytes."""
    found = list(runs)
    known = [run for run in found if isinstance(run, TrialRecord)]
    return loss_unit(known if len(known) == len(found) else (), given)


def bits_of_a_nat(trial: TrialRecord) -> float:
    """Bits per byte that are one nat per token; NaN if it is not known yet."""
    if trial.spec["data"].get("tokenizer", {}).get("kind") == "bytes":
        return 1 / math.log(2)
    return trial.figure("val_bits_per_byte") / trial.figure("val_loss")
