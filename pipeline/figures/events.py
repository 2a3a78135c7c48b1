"""Finds events in the history of a run: collapse, idle streaks, spikes and recovery.

collapse  MaxVio of a layer is at least half of the largest possible, E / K - 1
idle      an expert gets no token in `least_steps` successive steps or more
spike     MaxVio of a layer is three times as high as the median of the 20 bins before, and as the
          floor, and it is no collapse
recovery  after a collapse MaxVio of the layer falls below twice the floor, or an expert that was
          idle for so long gets tokens again

Steps are exact to a bin of time. The thresholds are round numbers, not measurements.
Shape suffixes: B bins of time, L expert layers, E experts, N rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["collapse", "idle", "spike", "recovery"]
KINDS: tuple[Kind, ...] = get_args(Kind)
COLLAPSED, SPIKE, BALANCED = 0.5, 3.0, 2.0
BEFORE = 20  # bins that a spike is compared with
MOST_IDLE = 200  # only the longest idle streaks are events


class Event(NamedTuple):
    kind: Kind
    layer: int
    expert: int | None  # None: the whole layer
    first_step: int
    last_step: int
    value: float  # idle: steps without a token; else the largest MaxVio, or that of the recovery


class _Run(NamedTuple):
    """Successive bins, `stop` excluded, of one row."""

    row: int
    start: int
    stop: int


def find_events(
    step_B: NDArray[Any],
    last_step: int,
    max_vio_BL: NDArray[Any],
    streak_LBE: NDArray[Any],
    *,
    largest: float,
    floor: float,
    least_steps: int = 100,
) -> list[Event]:
    """The events of a run, by their first steps.

    Args:     step_B: first step of each bin
              streak_LBE: longest idle streak that reaches into the bin, in steps
              largest, floor: MaxVio with all tokens at the same experts, and by chance
    """
    if not len(step_B):
        return []
    end_B = np.append(step_B[1:] - 1, last_step)
    vio_LB = max_vio_BL.T
    collapsed_LB = vio_LB >= COLLAPSED * largest
    found = [*_of_layers("collapse", collapsed_LB, vio_LB, step_B, end_B)]
    found += _of_layers("spike", _spiking(vio_LB, floor) & ~collapsed_LB, vio_LB, step_B, end_B)
    for layer, _, stop in _runs(collapsed_LB):
        balanced = stop + np.flatnonzero(vio_LB[layer, stop:] < BALANCED * floor)
        if len(balanced):
            found.append(_recovery(layer, None, int(balanced[0]), step_B, vio_LB))
    found += _idle(streak_LBE, vio_LB, step_B, end_B, least_steps)
    return sorted(found, key=lambda event: event.first_step)


def _of_layers(
    kind: Kind, on_LB: NDArray[np.bool_], vio_LB: NDArray[Any], step_B: Any, end_B: Any
) -> Iterator[Event]:
    for layer, start, stop in _runs(on_LB):
        value = float(vio_LB[layer, start:stop].max())
        yield Event(kind, layer, None, int(step_B[start]), int(end_B[stop - 1]), value)


def _spiking(vio_LB: NDArray[Any], floor: float) -> NDArray[np.bool_]:
    """A bin with fewer than BEFORE bins before it is no spike: a training begins unevenly."""
    spiking_LB = np.zeros(vio_LB.shape, bool)
    if vio_LB.shape[1] > BEFORE:
        before = np.lib.stride_tricks.sliding_window_view(vio_LB[:, :-1], BEFORE, axis=1)
        usual_LB = np.fmax(np.median(before, axis=-1), floor)
        spiking_LB[:, BEFORE:] = vio_LB[:, BEFORE:] >= SPIKE * usual_LB
    return spiking_LB


def _idle(
    streak_LBE: NDArray[Any], vio_LB: NDArray[Any], step_B: Any, end_B: Any, least_steps: int
) -> Iterator[Event]:
    B, E = streak_LBE.shape[1:]
    streak_NB = streak_LBE.swapaxes(1, 2).reshape(-1, B)
    runs = list(_runs(streak_NB >= least_steps))
    lengths = [int(streak_NB[run.row, run.start : run.stop].max()) for run in runs]
    for place in np.argsort(lengths)[::-1][:MOST_IDLE]:
        row, start, stop = runs[place]
        layer, expert = divmod(row, E)
        first = max(1, int(end_B[start]) - int(streak_NB[row, start]) + 1)
        yield Event("idle", layer, expert, first, int(end_B[stop - 1]), float(lengths[place]))
        if stop < B:
            yield _recovery(layer, expert, stop, step_B, vio_LB)


def _recovery(
    layer: int, expert: int | None, bin_: int, step_B: Any, vio_LB: NDArray[Any]
) -> Event:
    step = int(step_B[bin_])
    return Event("recovery", layer, expert, step, step, float(vio_LB[layer, bin_]))


def _runs(on_NB: NDArray[np.bool_]) -> Iterator[_Run]:
    """The maximal runs of bins that are on, row by row."""
    change_NB = np.diff(on_NB.astype(np.int8), axis=1, prepend=0, append=0)
    rows, starts = np.nonzero(change_NB == 1)
    _, stops = np.nonzero(change_NB == -1)
    yield from map(_Run, rows.tolist(), starts.tolist(), stops.tolist())


def told(event: Event, layers: Sequence[str]) -> str:
    """An event in words.  Args: layers: names of the layers"""
    where = f"layer {layers[event.layer]}"
    if event.expert is not None:
        where = f"expert {event.expert} of {where}"
    match event.kind:
        case "idle":
            return f"{where} idle for {event.value:,.0f} steps"
        case "recovery":
            return f"{where} recovered, MaxVio {event.value:.2f}"
        case _:
            return f"{where}: {event.kind}, MaxVio up to {event.value:.2f}"
