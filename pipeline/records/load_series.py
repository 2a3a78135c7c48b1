"""The history of a run, reduced to a few hundred bins of time.

    <trial_dir>/expert_load/pooled.parquet   one row per layer and bin: the arrays of `LoadSeries`

Charts have fewer columns than a run has steps, and reading gigabytes of shards takes too long. So
the worker pools the steps as it writes the shards, and a reader takes the pooled file and adds the
few shards that are newer. Without the file a reader pools all shards, with the same result.

The load of a bin is its largest one, because a mean would hide the single step in which one expert
got everything. The sum is kept as well, for the mean load of the bin.

Shape suffixes: S steps, B bins of time, L expert layers, E experts.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evenload.pipeline.figures.loads import History, Target, idle_streak, max_vio, utilisation
from evenload.pipeline.records import parquet_files
from evenload.pipeline.records.bins import Floats, PerBin, Percent, empty, joined
from evenload.pipeline.records.shards import iter_history
from evenload.pipeline.spec.load_shape import RunOutline

MAX_BINS = 400
MAX_CELLS = 100_000  # cells of one map; as 16-bit numbers in base64 they take 270 KB
PERCENT_LIMIT = 32_000  # percent of the fair share; a larger load would not fit 16 bits
FILE = "pooled.parquet"


def bin_steps(num_steps: int, num_experts: int) -> int:
    """Number of steps per bin, such that a map of experts over time stays small."""
    return max(1, -(-num_steps // most_bins(num_experts)))


def most_bins(num_experts: int) -> int:
    return min(MAX_BINS, max(1, MAX_CELLS // num_experts))


class LoadSeries:
    """The pooled history of a run. `extend` adds steps; its size depends on the bins alone."""

    def __init__(self, outline: RunOutline) -> None:
        L, E = outline.shape.num_layers, outline.shape.num_experts
        self.bin_steps = 1 if outline.steps is None else bin_steps(outline.steps, E)
        self.last_step = 0
        self._outline = outline
        self._target: Target = outline.target_E
        steps = 2 * (most_bins(E) // 2 or 1) if outline.steps is None else outline.steps
        self._expert, self._layer, self._bin = empty(L, -(-steps // self.bin_steps), E)

    def extend(self, chunk: History) -> None:
        """Adds the steps after `last_step`; earlier ones are in the series already."""
        is_new = chunk.step_S > self.last_step
        if not is_new.any():
            return
        new = chunk.of(is_new)
        self._make_room(int(new.step_S[-1]))
        bin_S = (new.step_S - 1) // self.bin_steps
        B, first = np.unique(bin_S, return_index=True)
        last = np.append(first[1:], len(bin_S)) - 1
        self._add_experts(new, B, first, last)
        self._add_layers(new.count_SLE, B, first)
        self._add_bins(new, bin_S, B, last)
        self.last_step = int(new.step_S[-1])

    def _make_room(self, step: int) -> None:
        """Joins neighbouring bins until a step of a run without a planned end has its bin."""
        while self._outline.steps is None and step > self.bin_steps * len(self._bin.steps):
            self._join_bins()

    def _join_bins(self) -> None:
        self._expert, self._layer, self._bin = joined((self._expert, self._layer, self._bin))
        self.bin_steps *= 2

    def _add_experts(
        self, new: History, B: NDArray[Any], first: NDArray[Any], last: NDArray[Any]
    ) -> None:
        held, count_SLE = self._expert, new.count_SLE
        percent_SLE = percent_of_fair(utilisation(count_SLE, self._target))
        streak_SLE = self._streaks(count_SLE)
        _raise(held.percent, B, np.maximum.reduceat(percent_SLE, first))
        _raise(held.streak, B, np.maximum.reduceat(streak_SLE, first))
        sum_BLE = np.add.reduceat(count_SLE, first, dtype=np.int64)
        held.load[:, B] += sum_BLE.swapaxes(0, 1)
        held.bias[:, B] = new.bias_SLE[last].swapaxes(0, 1)
        held.idle_steps[:, B] = streak_SLE[last].swapaxes(0, 1)

    def _add_layers(self, count_SLE: NDArray[Any], B: NDArray[Any], first: NDArray[Any]) -> None:
        vio_SL = max_vio(count_SLE, self._target)
        _raise(self._layer.max_vio, B, np.maximum.reduceat(vio_SL, first))
        idle_SL = (count_SLE == 0).mean(axis=-1)
        _raise(self._layer.idle_frac, B, np.maximum.reduceat(idle_SL, first))

    def _add_bins(
        self, new: History, bin_S: NDArray[Any], B: NDArray[Any], last: NDArray[Any]
    ) -> None:
        held, scalars = self._bin, new.scalars
        np.add.at(held.steps, bin_S, 1)
        if self._outline.tokens is not None:
            right = self._outline.tokens * self._outline.shape.top_k
            wrong_SL = new.count_SLE.sum(axis=-1, dtype=np.int64) != right
            np.add.at(held.wrong_steps, bin_S, wrong_SL.any(axis=-1))
        np.add.at(held.seconds, bin_S, np.nan_to_num(scalars["seconds"]))
        # Nobody may have told the loss of a step.
        np.add.at(held.losses, bin_S, ~np.isnan(scalars["loss"]))
        np.add.at(held.loss_sum, bin_S, np.nan_to_num(scalars["loss"]))
        np.fmax.at(held.loss_max, bin_S, scalars["loss"])
        np.fmax.at(held.grad_norm_max, bin_S, scalars["grad_norm"])
        held.last_step[B] = new.step_S[last]
        held.learning_rate[B] = scalars["learning_rate"][last]

    def _streaks(self, count_SLE: NDArray[np.int32]) -> NDArray[np.int64]:
        """Idle streaks (S, L, E) that continue those at `last_step`."""
        streak_SLE = idle_streak(count_SLE)
        if self.is_empty:
            return streak_SLE
        before_LE = self._expert.idle_steps[:, (self.last_step - 1) // self.bin_steps]
        since = np.arange(1, len(count_SLE) + 1)[:, None, None]
        return np.where(streak_SLE == since, streak_SLE + before_LE, streak_SLE)

    @property
    def is_empty(self) -> bool:
        return self.last_step == 0

    @property
    def miscounted_steps(self) -> int:
        return int(self._bin.wrong_steps.sum())

    @property
    def step_B(self) -> NDArray[np.int32]:
        """First step of each bin with recorded steps; further arrays have these bins, too."""
        return (np.flatnonzero(self._bin.steps) * self.bin_steps + 1).astype(np.int32)

    def percent_BE(self, layer: int) -> Percent:
        """Largest load in the bin in percent of the fair share.

        0 if the expert was idle in every step of the bin, -1 if nothing was counted.
        """
        return self._expert.percent[layer, self._filled]

    def mean_percent_BE(self, layer: int) -> Percent:
        """Mean load over the bin in percent of the fair share, with 0 and -1 as in `percent_BE`."""
        return percent_of_fair(utilisation(self._expert.load[layer, self._filled], self._target))

    @property
    def max_vio_BL(self) -> Floats:
        """Largest MaxVio in the bin."""
        return self._layer.max_vio[:, self._filled].T

    @property
    def idle_BL(self) -> Floats:
        """Largest share of experts without a token in any step of the bin."""
        return self._layer.idle_frac[:, self._filled].T

    @property
    def streak_BL(self) -> NDArray[np.int32]:
        """Longest idle streak of any expert that reaches into the bin, in steps."""
        return self._expert.streak[:, self._filled].max(axis=-1).T

    @property
    def streak_LBE(self) -> NDArray[np.int32]:
        """Longest idle streak that reaches into the bin, in steps."""
        return self._expert.streak[:, self._filled]

    @property
    def idle_steps_LE(self) -> NDArray[np.int32]:
        """Steps without a token up to and including the last step."""
        return self._expert.idle_steps[:, (self.last_step - 1) // self.bin_steps]

    @property
    def streak_LE(self) -> NDArray[np.int32]:
        """Longest idle streak of the run, in steps."""
        return self._expert.streak[:, self._filled].max(axis=1, initial=0)

    def bias_BE(self, layer: int) -> Floats:
        """Bias at the last step of the bin."""
        return self._expert.bias[layer, self._filled]

    @property
    def bias_spread_BL(self) -> Floats:
        """Largest minus smallest bias at the last step of the bin."""
        bias_LBE = self._expert.bias[:, self._filled]
        return (bias_LBE.max(axis=-1) - bias_LBE.min(axis=-1)).T

    @property
    def bias_drift_BL(self) -> Floats:
        """Mean change of a bias per step since the previous bin; 0 in the first bin."""
        bias_LBE = self._expert.bias[:, self._filled]
        if bias_LBE.shape[1] == 0:
            return np.zeros((0, len(bias_LBE)), np.float32)
        moved_LB = np.abs(np.diff(bias_LBE, axis=1, prepend=bias_LBE[:, :1])).mean(axis=-1)
        last_B = self._bin.last_step[self._filled]
        return (moved_LB / np.maximum(np.diff(last_B, prepend=0), 1)).T.astype(np.float32)

    @property
    def loss_B(self) -> Floats:
        """Mean training loss of the bin, nats per token; NaN if nobody told it."""
        filled = self._filled
        with np.errstate(invalid="ignore"):
            return (self._bin.loss_sum[filled] / self._bin.losses[filled]).astype(np.float32)

    @property
    def loss_max_B(self) -> Floats:
        return _known(self._bin.loss_max[self._filled])

    @property
    def grad_norm_max_B(self) -> Floats:
        return _known(self._bin.grad_norm_max[self._filled])

    @property
    def learning_rate_B(self) -> Floats:
        """Learning rate at the last step of the bin."""
        return self._bin.learning_rate[self._filled].astype(np.float32)

    @property
    def tokens_per_second_B(self) -> Floats:
        seconds_B = self._bin.seconds[self._filled]
        with np.errstate(divide="ignore"):
            rate_B = np.where(seconds_B > 0, self._tokens_B / seconds_B, np.nan)
        return rate_B.astype(np.float32)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step, on average; 0 if none is known."""
        return round(self._tokens_B.sum() / max(1, self._bin.steps.sum()))

    @property
    def _tokens_B(self) -> NDArray[np.floating[Any]]:
        """Tokens of the bin; if they were not told, those of the layer that counted most."""
        filled, outline = self._filled, self._outline
        if outline.tokens is not None:
            return self._bin.steps[filled] * float(outline.tokens)
        most_B = self._expert.load[:, filled].sum(axis=-1).max(axis=0)
        return most_B.astype(np.float64) / outline.shape.top_k

    @property
    def _filled(self) -> NDArray[np.bool_]:
        return self._bin.steps > 0

    def write(self, trial_dir: Path) -> None:
        """Writes the pooled file.  Raises: OSError"""
        parquet_files.write_table(
            trial_dir / "expert_load" / FILE, self._table(), dictionary=PerBin._fields
        )

    def _table(self) -> pa.Table:
        bins = np.flatnonzero(self._filled)
        L = len(self._layer.max_vio)
        columns = {
            "layer": np.repeat(np.arange(L, dtype=np.int32), len(bins)),
            "bin": np.tile(bins.astype(np.int32), L),
        }
        for name, values_B in self._bin._asdict().items():
            columns[name] = np.tile(values_B[bins], L)
        for name, values_LB in self._layer._asdict().items():
            columns[name] = values_LB[:, bins].ravel()
        for name, values_LBE in self._expert._asdict().items():
            flat = values_LBE[:, bins].reshape(L * len(bins), values_LBE.shape[-1])
            columns[name] = parquet_files.lists(flat, pa.from_numpy_dtype(values_LBE.dtype))
        return pa.table(columns).replace_schema_metadata({"bin_steps": str(self.bin_steps)})

    def _take(self, table: pa.Table, last: int | None) -> None:
        """Copies from the file the bins that end at step `last` or before; None: all bins.

        Bins of another length are left, unless this series can grow to it.
        """
        bin_steps = int(table.schema.metadata[b"bin_steps"])
        while self._outline.steps is None and self.bin_steps < bin_steps:
            self._join_bins()
        if self.bin_steps != bin_steps:
            return
        L = len(self._layer.max_vio)
        bin_R = parquet_files.array(table.column("bin"))
        bins = bin_R[: len(bin_R) // L]
        kept = np.ones(len(bins), bool) if last is None else (bins + 1) * self.bin_steps <= last
        for name, held_B in self._bin._asdict().items():
            # Former versions had a loss in every step.
            column = "steps" if name == "losses" and name not in table.column_names else name
            held_B[bins[kept]] = parquet_files.array(table.column(column))[: len(bins)][kept]
        for name, held_LB in self._layer._asdict().items():
            held_LB[:, bins[kept]] = parquet_files.array(table.column(name)).reshape(L, -1)[:, kept]
        for name, held_LBE in self._expert._asdict().items():
            values_RE = parquet_files.array(table.column(name))
            held_LBE[:, bins[kept]] = values_RE.reshape(L, len(bins), -1)[:, kept]
        self.last_step = int(self._bin.last_step.max())


def read_series(trial_dir: Path, outline: RunOutline, last: int | None = None) -> LoadSeries:
    """The pooled history of a run so far, up to and including step `last` if that is given."""
    series = LoadSeries(outline)
    table = _read_pooled(trial_dir)
    if table is not None:
        series._take(table, last)
    catch_up(series, trial_dir, last)
    return series


def catch_up(series: LoadSeries, trial_dir: Path, last: int | None = None) -> None:
    """Adds to the series the recorded steps that it lacks."""
    for chunk in iter_history(trial_dir, first=series.last_step + 1, last=last):
        series.extend(chunk)


def percent_of_fair(util_E: NDArray[np.floating[Any]]) -> Percent:
    """Utilisation (..., E) in whole percent of the fair share.

    0 means idle, so the load of a busy expert is rounded to at least 1. -1: nothing was counted.
    """
    percent = np.clip(np.rint(util_E * 100), 0, PERCENT_LIMIT)
    percent = np.where((util_E > 0) & (percent == 0), 1, percent)
    return np.where(np.isnan(util_E), -1, percent).astype(np.int16)


def _read_pooled(trial_dir: Path) -> pa.Table | None:
    """The pooled file; None if it is missing, torn or empty."""
    try:
        table = parquet_files.read_table(trial_dir / "expert_load" / FILE)
    except (FileNotFoundError, parquet_files.DamagedFile):
        return None
    return table if b"bin_steps" in (table.schema.metadata or {}) and len(table) else None


def _known(largest_B: NDArray[np.float64]) -> Floats:
    """Largest values, with NaN where there was none."""
    return np.where(np.isneginf(largest_B), np.nan, largest_B).astype(np.float32)


def _raise(held: NDArray[Any], B: NDArray[Any], values_BL: NDArray[Any]) -> None:
    """Raises `held` (L, B, ...) to the new values (B, L, ...) where these are larger."""
    held[:, B] = np.maximum(held[:, B], values_BL.swapaxes(0, 1))
