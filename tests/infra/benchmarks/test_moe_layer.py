from __future__ import annotations

import json

import pytest
import torch

from infra.benchmarks import moe_layer
from infra.benchmarks.expert_arms import ARMS, Case
from infra.benchmarks.moe_layer import Shape

CPU = torch.device("cpu")
SHAPE = Shape("test", tokens=48, width=16, hidden=8, experts=7, top_k=3)


@pytest.mark.parametrize("routing", moe_layer.ROUTINGS)
def test_the_experts_of_a_token_are_different(routing: str) -> None:
    expert_TK = moe_layer.ROUTINGS[routing](SHAPE)
    assert expert_TK.shape == (48, 3)
    assert all(len(set(chosen)) == 3 for chosen in expert_TK.tolist())
    assert set(expert_TK.flatten().tolist()) <= set(range(7))


def test_routings_load_the_experts_as_they_are_named() -> None:
    balanced, one_empty, zipf = (
        moe_layer.ROUTINGS[name](SHAPE).flatten().bincount(minlength=7).tolist()
        for name in ("balanced", "one expert empty", "zipf")
    )
    assert max(balanced) - min(balanced) <= 1
    assert sorted(one_empty) == [0, 24, 24, 24, 24, 24, 24]
    assert zipf[0] > 2 * zipf[6]


def test_a_rival_that_is_wrong_or_raises_is_reported_and_not_timed() -> None:
    case = moe_layer.make_case(SHAPE, moe_layer.balanced(SHAPE), torch.float32, CPU)
    ours = ARMS["evenload torch"](CPU)

    def breaks(case: Case) -> torch.Tensor:
        raise NotImplementedError("no such kernel")

    rivals = {
        "right": ours,
        "wrong": lambda case: 1.001 * ours(case),
        "broken": breaks,
    }
    errors, failed = moe_layer.checked(case, rivals)
    assert list(errors) == ["right"]
    assert failed["wrong"].startswith("relative error 1.0e-03")
    assert failed["broken"] == "NotImplementedError: no such kernel"


def test_an_error_of_our_own_layer_is_raised() -> None:
    case = moe_layer.make_case(SHAPE, moe_layer.balanced(SHAPE), torch.float32, CPU)

    def breaks(case: Case) -> torch.Tensor:
        raise NotImplementedError("no such kernel")

    with pytest.raises(NotImplementedError):
        moe_layer.checked(case, {"evenload torch": breaks})


def test_saved_bytes_are_those_kept_for_backward_without_the_inputs() -> None:
    case = moe_layer.make_case(SHAPE, moe_layer.balanced(SHAPE), torch.float32, CPU)
    assert moe_layer.saved_bytes(lambda case: case.x_TD.square(), case) == 0
    assert moe_layer.saved_bytes(lambda case: case.x_TD.exp(), case) == 4 * 48 * 16


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(moe_layer, "QUICK_SHAPES", (SHAPE,))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return moe_layer.run(quick=True)


def test_the_document_names_missing_arms_and_compares_each_with_the_bound(
    document: dict[str, object],
) -> None:
    assert json.loads(json.dumps(document)) == document
    assert {"ScatterMoE", "Liger", "SonicMoE", "evenload triton"} <= set(document["missing"])
    for result in document["shapes"][0]["routings"].values():
        assert "evenload torch" in result["arms"]
        ours = result["arms"]["evenload torch"]
        assert 0 < ours["relative_error"] < 1e-5
        both, bound = ours["forward_backward"], result["arms"]["dense bound"]["forward_backward"]
        assert both["share_of_bound"] == pytest.approx(bound["median_ms"] / both["median_ms"])
        assert both["tflops"] * both["median_ms"] * 1e9 == pytest.approx(3 * SHAPE.forward_flops)
    assert "dense bound" in moe_layer.table(document)
