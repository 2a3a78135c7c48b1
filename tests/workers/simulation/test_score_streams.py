"""Letters: N steps, S seeds, T tokens, E experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.scores import Recording, write_recording
from evenload.pipeline.spec.simulation import (
    Adversarial,
    Correlated,
    Gaussian,
    HeavyTailed,
    Recorded,
    StreamSpec,
    Zipf,
)
from evenload.workers.simulation.score_streams import Size, score_stream

STREAMS = [Gaussian(), HeavyTailed(), Correlated(), Zipf(), Adversarial(), Gaussian(gate="softmax")]


def scores(stream: StreamSpec, seed: int = 0, **size: int) -> Tensor:
    shape = Size(**({"seeds": 2, "tokens": 256, "experts": 8, "steps": 6} | size))
    return torch.stack(list(score_stream(stream, shape, torch.Generator().manual_seed(seed))))


def logits(stream: StreamSpec, **size: int) -> Tensor:
    return torch.logit(scores(stream, **size).double())


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: f"{stream.kind}-{stream.gate}")
def test_scores_are_finite_seeded_and_in_the_unit_interval(stream: StreamSpec) -> None:
    once, again, other = scores(stream), scores(stream), scores(stream, seed=1)
    assert once.shape == (6, 2, 256, 8)
    assert once.dtype == torch.float32
    assert ((once >= 0) & (once <= 1)).all()
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_a_stationary_stream_keeps_its_preferences() -> None:
    mean_NSE = logits(Gaussian(), tokens=2000).mean(dim=2)
    assert (mean_NSE - mean_NSE[0]).abs().max() < 0.15


def test_drift_moves_preferences_like_the_root_of_the_steps() -> None:
    mean_NSE = logits(Gaussian(drift=0.5), tokens=2000, steps=17, experts=64).mean(dim=2)
    assert float((mean_NSE[1] - mean_NSE[0]).std()) == pytest.approx(0.5, rel=0.2)
    assert float((mean_NSE[16] - mean_NSE[0]).std()) == pytest.approx(2.0, rel=0.25)


def test_a_jump_redraws_all_preferences_once() -> None:
    mean_NSE = logits(Gaussian(jump_at=0.5), tokens=2000).mean(dim=2)
    step_N = (mean_NSE[1:] - mean_NSE[:-1]).square().mean(dim=(1, 2)).sqrt()
    assert step_N.argmax() == 2
    assert step_N[2] > 5 * step_N[[0, 1, 3, 4]].max()


def test_an_adversary_flips_preferences_every_period() -> None:
    mean_NSE = logits(Adversarial(period=2), tokens=4000).mean(dim=2)
    sign_N = (mean_NSE * mean_NSE[0]).mean(dim=(1, 2)).sign()
    assert sign_N.tolist() == [1, 1, -1, -1, 1, 1]


def test_tokens_of_a_sequence_share_the_stated_part_of_the_variance() -> None:
    stream = Correlated(seq_len=64, share=0.4, skew=0.0)
    logit = logits(stream, tokens=64 * 200, steps=1)[0].unflatten(1, (200, 64))
    within, between = logit.var(dim=2).mean(), logit.mean(dim=2).var(dim=1).mean()
    assert float(within) == pytest.approx(0.6, rel=0.05)
    assert float(between) == pytest.approx(0.4 + 0.6 / 64, rel=0.1)


def test_student_tails_have_the_quantiles_of_the_law() -> None:
    # Two degrees of freedom: P(|t| > x) = 1 - x / sqrt(2 + x^2).
    logit = logits(HeavyTailed(degrees=2.0, skew=0.0), tokens=20_000, steps=1)
    for x in (1.0, 3.0, 10.0):
        share = float((logit.abs() > x).double().mean())
        assert share == pytest.approx(1 - x / (2 + x * x) ** 0.5, rel=0.05)


def test_zipf_tokens_repeat_few_types() -> None:
    stream = Zipf(vocab_size=50, context=0.0, skew=0.0)
    score = scores(stream, steps=1, tokens=5000)[0, 0]
    _, count = score.unique(dim=0, return_counts=True)
    share = count.sort(descending=True).values / 5000
    harmonic = sum(1 / rank for rank in range(1, 51))
    assert float(share[0]) == pytest.approx(1 / harmonic, rel=0.1)
    assert len(count) <= 50


def test_a_recording_is_replayed_unchanged(tmp_path: Path) -> None:
    score = np.random.default_rng(0).random((3, 2, 5, 4), dtype=np.float32)
    path = tmp_path / "run.npz"
    write_recording(path, Recording(score, score[:, :, 0], 2))
    replayed = torch.stack(
        list(score_stream(Recorded(path=path), Size(1, 1, 4, 1), torch.Generator()))
    )
    assert torch.equal(replayed, torch.from_numpy(score))


def test_a_file_that_is_not_a_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone\.npz.*not a recording of scores"):
        score_stream(Recorded(path=tmp_path / "gone.npz"), Size(1, 1, 4, 1), torch.Generator())
