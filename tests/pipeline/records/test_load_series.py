from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evenload.pipeline.figures.loads import History, max_vio
from evenload.pipeline.records.load_series import (
    FILE,
    MAX_BINS,
    MAX_CELLS,
    LoadSeries,
    bin_steps,
    percent_of_fair,
    read_series,
)
from evenload.pipeline.records.shards import SCALARS
from evenload.pipeline.spec.load_shape import RunOutline
from evenload.pipeline.spec.trial import TrialSpec

L, E, TOKENS, TOP_K = 2, 16, 256, 2
FAIR = TOKENS * TOP_K // E


def _outline(steps: int) -> RunOutline:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny"},
            "balancer": {"kind": "sign"},
            "train": {"steps": steps, "batch_sequences": 8, "seq_len": 32},
        }
    ).outline


@pytest.fixture
def history() -> Callable[..., History]:
    """Makes a history with balanced loads, which the test then changes."""

    def make(steps: int) -> History:
        return History(
            step_S=np.arange(1, steps + 1),
            count_SLE=np.full((steps, L, E), FAIR, np.int32),
            bias_SLE=np.zeros((steps, L, E), np.float32),
            scalars={name: np.ones(steps) for name in SCALARS},
        )

    return make


def _slice(history: History, start: int, stop: int) -> History:
    return History(
        history.step_S[start:stop],
        history.count_SLE[start:stop],
        history.bias_SLE[start:stop],
        {name: values[start:stop] for name, values in history.scalars.items()},
    )


def test_maps_have_at_most_400_bins_and_100k_cells() -> None:
    for steps in (1, 399, 400, 401, 100_000):
        for experts in (8, 64, 256, 512):
            bins = -(-steps // bin_steps(steps, experts))
            assert bins <= MAX_BINS
            assert bins * experts <= MAX_CELLS
    assert bin_steps(400, 64) == 1


def test_spike_of_a_single_step_survives_binning(history: Callable[..., History]) -> None:
    run = history(4000)
    run.count_SLE[1234, 1, 3] += 5 * FAIR
    run.count_SLE[1234, 1, 4:9] -= FAIR
    series = LoadSeries(_outline(4000))
    series.extend(run)
    assert series.bin_steps == 10
    assert series.percent_BE(1)[123, 3] == 600
    assert series.percent_BE(1)[122, 3] == series.percent_BE(1)[124, 3] == 100
    assert series.max_vio_BL[123].tolist() == [0, 5]
    assert series.idle_BL[123].tolist() == pytest.approx([0, 5 / E])
    assert series.miscounted_steps == 0


def test_expert_counts_as_idle_only_if_it_was_idle_in_every_step_of_the_bin(
    history: Callable[..., History],
) -> None:
    run = history(4000)
    run.count_SLE[0:10, 0, 7] = 0
    run.count_SLE[10:19, 0, 7] = 0
    series = LoadSeries(_outline(4000))
    series.extend(run)
    assert series.percent_BE(0)[0, 7] == 0
    assert series.percent_BE(0)[1, 7] > 0


def test_extending_in_pieces_equals_extending_at_once(
    history: Callable[..., History],
) -> None:
    run = history(1700)
    rng = np.random.default_rng(0)
    run.count_SLE[:] = rng.multinomial(TOKENS * TOP_K, np.full(E, 1 / E), size=(1700, L))
    run.bias_SLE[:] = rng.normal(size=run.bias_SLE.shape)
    run.scalars["loss"][:] = rng.random(1700)
    whole, pieces = LoadSeries(_outline(1700)), LoadSeries(_outline(1700))
    whole.extend(run)
    for start, stop in [(0, 3), (3, 50), (50, 1203), (1150, 1700)]:
        pieces.extend(_slice(run, start, stop))
    for name in ("step_B", "max_vio_BL", "idle_BL", "loss_B", "loss_max_B", "tokens_per_second_B"):
        np.testing.assert_allclose(getattr(whole, name), getattr(pieces, name), rtol=1e-6)
    np.testing.assert_array_equal(whole.percent_BE(1), pieces.percent_BE(1))
    np.testing.assert_array_equal(whole.bias_BE(1), pieces.bias_BE(1))
    assert pieces.last_step == 1700


def test_short_runs_are_shown_step_by_step(history: Callable[..., History]) -> None:
    run = history(50)
    rng = np.random.default_rng(1)
    run.count_SLE[:] = rng.multinomial(TOKENS * TOP_K, np.full(E, 1 / E), size=(50, L))
    run.bias_SLE[:, 0, 0] = np.arange(50)
    run.scalars["loss"][:] = np.arange(50)
    series = LoadSeries(_outline(50))
    series.extend(run)
    assert series.step_B.tolist() == list(range(1, 51))
    np.testing.assert_allclose(series.max_vio_BL, max_vio(run.count_SLE), rtol=1e-6)
    assert series.bias_BE(0)[:, 0].tolist() == list(range(50))
    assert series.loss_B.tolist() == list(range(50))
    assert series.tokens_per_second_B.tolist() == [TOKENS] * 50


def test_bins_of_a_running_trial_end_at_its_newest_step(history: Callable[..., History]) -> None:
    series = LoadSeries(_outline(4000))
    assert series.is_empty
    series.extend(history(25))
    assert series.step_B.tolist() == [1, 11, 21]
    assert not series.is_empty


def test_bias_is_that_of_the_bins_last_step(history: Callable[..., History]) -> None:
    run = history(4000)
    run.bias_SLE[:, 0, 0] = np.arange(1, 4001)
    series = LoadSeries(_outline(4000))
    series.extend(run)
    assert series.bias_BE(0)[:3, 0].tolist() == [10, 20, 30]


def test_steps_that_miss_an_assignment_are_counted(history: Callable[..., History]) -> None:
    run = history(50)
    run.count_SLE[3, 0, 0] -= 1
    run.count_SLE[7, :, 2] += 1
    series = LoadSeries(_outline(50))
    series.extend(run)
    assert series.miscounted_steps == 2


def test_percent_is_16_bit_and_distinguishes_idle_from_nearly_idle() -> None:
    percent = percent_of_fair(np.array([0.0, 0.001, 0.994, 1.0, 1e6, np.nan]))
    assert percent.tolist() == [0, 1, 99, 100, 32_000, -1]
    assert percent.dtype == np.int16


def test_idle_streaks_continue_over_pieces_and_bins(history: Callable[..., History]) -> None:
    run = history(4000)
    run.count_SLE[95:1203, 1, 5] = 0
    run.count_SLE[95:1203, 1, 6] += FAIR
    whole, pieces = LoadSeries(_outline(4000)), LoadSeries(_outline(4000))
    whole.extend(run)
    for start, stop in [(0, 90), (90, 101), (101, 102), (102, 1000), (1000, 4000)]:
        pieces.extend(_slice(run, start, stop))
    for series in (whole, pieces):
        assert series.streak_LE[1, 5] == 1108
        assert series.streak_LE.sum() == 1108
        assert series.streak_BL[[8, 9, 10, 50, 120, 121], 1].tolist() == [0, 5, 15, 415, 1108, 0]


def test_mean_load_of_a_bin_is_of_summed_counts(history: Callable[..., History]) -> None:
    run = history(4000)
    run.count_SLE[0:10, 0, 3] = 0
    run.count_SLE[0, 0, 3] = 10 * FAIR
    run.count_SLE[0, 0, 4:13] = 0
    run.count_SLE[1:10, 0, 4] += FAIR
    series = LoadSeries(_outline(4000))
    series.extend(run)
    assert series.percent_BE(0)[0, 3] == 1000
    assert series.mean_percent_BE(0)[0, 3] == 100
    assert series.mean_percent_BE(0)[0, 4] == 180


def test_drift_is_the_mean_change_of_a_bias_per_step(history: Callable[..., History]) -> None:
    run = history(4000)
    run.bias_SLE[:, 1] = np.arange(4000)[:, None] * np.linspace(-0.1, 0.1, E)
    series = LoadSeries(_outline(4000))
    series.extend(run)
    expected = np.abs(np.linspace(-0.1, 0.1, E)).mean()
    np.testing.assert_allclose(series.bias_drift_BL[1:, 1], expected, rtol=1e-3)
    assert series.bias_drift_BL[0].tolist() == [0, 0]
    assert not series.bias_drift_BL[:, 0].any()
    np.testing.assert_allclose(series.bias_spread_BL[-1], [0, 3999 * 0.2], rtol=1e-5)


def _random(history: Callable[..., History], steps: int) -> History:
    run, rng = history(steps), np.random.default_rng(0)
    run.count_SLE[:] = rng.multinomial(TOKENS * TOP_K, np.full(E, 1 / E), size=(steps, L))
    run.count_SLE[: steps // 2, 0, 1] = 0
    run.bias_SLE[:] = rng.normal(size=run.bias_SLE.shape)
    for values in run.scalars.values():
        values[:] = rng.random(steps)
    return run


def _same(one: LoadSeries, other: LoadSeries) -> None:
    assert (one.last_step, one.miscounted_steps) == (other.last_step, other.miscounted_steps)
    names = [name for name, kind in vars(LoadSeries).items() if isinstance(kind, property)]
    assert len(names) > 12
    for name in names:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)
    for layer in range(L):
        np.testing.assert_array_equal(one.percent_BE(layer), other.percent_BE(layer))
        np.testing.assert_array_equal(one.mean_percent_BE(layer), other.mean_percent_BE(layer))
        np.testing.assert_array_equal(one.bias_BE(layer), other.bias_BE(layer))


def test_a_series_is_read_as_it_was_written(
    tmp_path: Path, history: Callable[..., History]
) -> None:
    series = LoadSeries(_outline(1700))
    series.extend(_slice(_random(history, 1700), 0, 1203))
    (tmp_path / "expert_load").mkdir()
    series.write(tmp_path)
    read = read_series(tmp_path, _outline(1700))
    _same(read, series)
    for grown in (series, read):
        grown.extend(_slice(_random(history, 1700), 1203, 1700))
    _same(read, series)


def test_reading_up_to_a_step_leaves_the_unfinished_bin_to_the_shards(
    tmp_path: Path, history: Callable[..., History]
) -> None:
    series = LoadSeries(_outline(4000))
    series.extend(_random(history, 4000))
    (tmp_path / "expert_load").mkdir()
    series.write(tmp_path)
    short = LoadSeries(_outline(4000))
    short.extend(_slice(_random(history, 4000), 0, 1230))
    _same(read_series(tmp_path, _outline(4000), last=1239), short)


def test_file_of_another_run_length_and_torn_files_are_not_used(
    tmp_path: Path, history: Callable[..., History]
) -> None:
    series = LoadSeries(_outline(4000))
    series.extend(history(100))
    (tmp_path / "expert_load").mkdir()
    series.write(tmp_path)
    assert read_series(tmp_path, _outline(8000)).is_empty
    (tmp_path / "expert_load" / FILE).write_bytes(b"PAR1 torn")
    assert read_series(tmp_path, _outline(4000)).is_empty


def test_run_without_a_planned_end_grows_into_longer_bins(
    history: Callable[..., History],
) -> None:
    run = history(4000)
    rng = np.random.default_rng(0)
    run.count_SLE[:] = rng.multinomial(TOKENS * TOP_K, np.full(E, 1 / E), size=(4000, L))
    run.count_SLE[900:960, 0, 3] = 0
    run.bias_SLE[:] = np.arange(4000)[:, None, None]
    run.scalars["learning_rate"][:] = np.arange(4000)
    grown = LoadSeries(_outline(1)._replace(steps=None))
    planned = LoadSeries(_outline(400 * 16))
    assert planned.bin_steps == 16
    for start in range(0, 4000, 333):
        grown.extend(_slice(run, start, start + 333))
    planned.extend(run)
    _same(grown, planned)
    assert grown.streak_LE[0, 3] >= 60


def test_file_of_a_run_without_a_planned_end_is_read_with_its_bins(
    tmp_path: Path, history: Callable[..., History]
) -> None:
    (tmp_path / "expert_load").mkdir()
    endless = _outline(1)._replace(steps=None)
    series = LoadSeries(endless)
    series.extend(history(1700))
    series.write(tmp_path)
    read = read_series(tmp_path, endless)
    assert (read.bin_steps, read.last_step) == (8, 1700)
    _same(read, series)


def test_tokens_come_from_the_counts_if_nobody_told_them(history: Callable[..., History]) -> None:
    series = LoadSeries(_outline(50)._replace(tokens=None))
    run = history(50)
    run.count_SLE[:, 1] = 0  # a layer that was never reached
    series.extend(run)
    assert series.tokens_per_step == TOKENS
    assert series.miscounted_steps == 0
    assert LoadSeries(_outline(50)).tokens_per_step == 0
