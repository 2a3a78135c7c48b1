from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.data.corpus import prepare
from evenload.workers.data.shards import even_windows
from evenload.workers.training.loss_by_k import loss_by_k, values_of_k
from evenload.workers.training.scoring import scorer_of
from evenload.workers.training.setup import assemble

MakeSpec = Callable[..., TrialSpec]


@pytest.fixture
def windows(make_spec: MakeSpec, tmp_path: Path) -> NDArray[Any]:
    return even_windows(prepare(make_spec().data, tmp_path).validation, 32, 512)


@pytest.mark.parametrize(
    ("experts", "top_k", "which", "values"),
    [
        (8, 2, "powers", [1, 2, 4, 8]),
        (12, 3, "powers", [1, 2, 3, 4, 8, 12]),
        (1, 1, "powers", [1]),
        (5, 2, "every", [1, 2, 3, 4, 5]),
    ],
)
def test_the_values_include_that_of_training_and_all_experts(
    make_spec: MakeSpec, experts: int, top_k: int, which: str, values: list[int]
) -> None:
    model = make_spec(model={"num_experts": experts, "top_k": top_k}).model
    assert values_of_k(model, which) == values


@pytest.mark.parametrize("tie", [False, True])
def test_each_k_is_the_model_that_a_spec_with_that_top_k_describes(
    make_spec: MakeSpec, windows: NDArray[Any], tie: bool
) -> None:
    spec = make_spec(model={"tie_embeddings": tie}, eval={"by_k": "every"})
    assembly = assemble(spec)
    bias_LE = torch.randn(2, 8) / 10
    found = loss_by_k(spec, scorer_of(assembly, bias_LE, 4), windows)
    assert found.k_N.tolist() == list(range(1, 9))
    assert found.tokens == 512
    for row, k in enumerate(found.k_N.tolist()):
        other = assemble(make_spec(model={"tie_embeddings": tie, "top_k": k}))
        other.trainee.model.load_state_dict(assembly.trainee.model.state_dict())
        expected = scorer_of(other, bias_LE, 4).score(windows)
        assert found.loss_N[row] == pytest.approx(expected.loss, rel=1e-6)
        assert found.count_NLE[row].tolist() == expected.count_LE.tolist()
        assert found.count_NLE[row].sum(axis=-1).tolist() == [512 * k] * 2


def test_with_all_experts_the_bias_chooses_nothing(
    make_spec: MakeSpec, windows: NDArray[Any]
) -> None:
    spec = make_spec(eval={"by_k": "powers"})
    assembly = assemble(spec)
    plain, biased = (
        loss_by_k(spec, scorer_of(assembly, bias_LE, 4), windows)
        for bias_LE in (torch.zeros(2, 8), torch.linspace(-1, 1, 8).repeat(2, 1))
    )
    assert plain.loss_N[-1] == pytest.approx(biased.loss_N[-1], rel=1e-6)
    assert plain.loss_N[0] != pytest.approx(biased.loss_N[0], rel=1e-6)
    assert (plain.count_NLE[-1] == 512).all()


def test_the_model_is_left_as_it_was(make_spec: MakeSpec, windows: NDArray[Any]) -> None:
    spec = make_spec()
    assembly = assemble(spec)
    weights = {name: w.clone() for name, w in assembly.trainee.model.state_dict().items()}
    random_state = torch.get_rng_state()
    scorer = scorer_of(assembly, torch.zeros(2, 8), 4)
    before = scorer.score(windows)
    loss_by_k(spec, scorer, windows)
    for name, weight in assembly.trainee.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert torch.equal(torch.get_rng_state(), random_state)
    assert scorer.score(windows).loss == before.loss
