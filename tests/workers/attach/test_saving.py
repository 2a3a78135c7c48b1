"""Stopping and going on, and what becomes of a bias that the model did not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import evenload
from evenload.workers.attach import AttachError, Balance
from infra.research.tiny_models import tiny_model
from tests.workers.attach import models
from tests.workers.attach.models import PROBE, model, tokens

RULES: dict[str, Any] = {
    "sign": {"kind": "sign", "step_size": 0.01, "schedule": "inverse"},
    "smebu": "smebu",
    "ema": "ema",
    "quantile": {"kind": "quantile", "memory": 0.5},
    "kalman": "kalman",
    "self_tuned": "self_tuned",
}


def attach(attached: nn.Module, rule: Any = "self_tuned", **options: Any) -> Balance:
    options = {"probe": PROBE, "added_bias": "keep", **options}
    balance: Balance = evenload.attach(attached, rule, **options)
    return balance


def steps(trained: models.Model, balance: Balance, numbers: range) -> None:
    """Optimizer steps that change nothing but the biases."""
    for number in numbers:
        trained.loss(tokens(seed=number))
        balance.step()


def stacked(balance: Balance) -> Tensor:
    return torch.stack(list(balance.biases().values()))


@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    rule: str, own_bias: bool, tmp_path: Path
) -> None:
    whole = model(own_bias=own_bias)
    uninterrupted = attach(whole, RULES[rule])
    steps(whole, uninterrupted, range(8))

    first = model(own_bias=own_bias)
    stopped = attach(first, RULES[rule])
    steps(first, stopped, range(5))
    stopped.save(tmp_path)
    second = model(own_bias=own_bias)
    resumed = attach(second, RULES[rule], resume=tmp_path)
    assert torch.equal(stacked(resumed), stacked(stopped))
    steps(second, resumed, range(5, 8))
    assert resumed.steps == 8
    assert torch.equal(stacked(resumed), stacked(uninterrupted))


def test_without_the_rules_memory_the_steps_are_others(tmp_path: Path) -> None:
    """What `save` adds to the weights is needed."""
    trained = model()
    balance = attach(trained)
    steps(trained, balance, range(5))
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    fresh = model()
    resumed = attach(fresh, resume=tmp_path)
    assert torch.equal(stacked(resumed), stacked(balance))
    steps(trained, balance, range(5, 6))
    steps(fresh, resumed, range(5, 6))
    assert not torch.equal(stacked(resumed), stacked(balance))


def test_names_that_wrappers_change_are_recognised(tmp_path: Path) -> None:
    trained = model()
    balance = attach(trained)
    steps(trained, balance, range(3))
    balance.save(tmp_path)

    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

    resumed = attach(Wrapper(model()), resume=tmp_path)
    assert torch.equal(stacked(resumed), stacked(balance))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "sign"}, "saved state is of the rule .*self_tuned.*sign"),
        ({"layers": 3}, r"nothing was saved for layers\.2\.mlp\.gate; saved are layers\.0"),
        ({"experts": 4}, "8 biases were saved for layers.0.mlp.gate, which has 4 experts"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_the_model_left_alone(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    attach(model()).save(tmp_path)
    rule = options.pop("rule", "self_tuned")
    other = model(**options)
    keys = list(other.state_dict())
    with pytest.raises(AttachError, match=message):
        attach(other, rule, resume=tmp_path)
    assert list(other.state_dict()) == keys


def test_a_folder_without_anything_of_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match=r"holds neither evenload\.pt nor weights"):
        attach(model(), resume=tmp_path)
    torch.save({"format": 0}, tmp_path / "evenload.pt")
    with pytest.raises(AttachError, match="not written by this version"):
        attach(model(), resume=tmp_path)


def test_an_added_bias_fades_to_zero_and_then_the_model_needs_it_no_more() -> None:
    trained = model()
    balance = attach(trained, total_steps=10, added_bias="fade", fade_over=0.5, every=3)
    sizes = []
    for number in range(10):
        steps(trained, balance, range(number, number + 1))
        sizes.append(float(stacked(balance).abs().max()))
    assert sizes[4] > 0
    assert sizes[5:] == pytest.approx([sizes[4] * left for left in (0.8, 0.6, 0.4, 0.2, 0.0)])
    assert sizes[-1] == 0
    with torch.no_grad():
        attached = trained(tokens())
        balance.detach()
        assert torch.equal(trained(tokens()), attached)


def test_a_bias_of_the_models_own_does_not_fade() -> None:
    trained = model(own_bias=True)
    balance = attach(trained, total_steps=2, added_bias="fade", fade_over=1.0)
    steps(trained, balance, range(2))
    assert stacked(balance).abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"added_bias": "fade"}, "added_bias='fade' needs the number of optimizer steps"),
        ({"added_bias": "fade", "total_steps": 9, "fade_over": 0.0}, "fade_over=0.0"),
    ],
)
def test_a_fade_needs_its_terms(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AttachError, match=message):
        attach(model(), **options)


def test_an_added_bias_is_never_silent() -> None:
    with pytest.warns(UserWarning, match="has no bias of its own.*added_bias='keep'"):
        evenload.attach(model(), probe=PROBE)
    evenload.attach(model(own_bias=True), probe=PROBE)


def test_an_adapter_that_will_hold_no_bias_is_said() -> None:
    adapted = model(own_bias=True)
    adapted.peft_config = {}  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=r"adapter folder will hold no bias.*balance\.save"):
        attach(adapted)


def test_an_adapter_that_comes_after_attach_is_said_once() -> None:
    adapted = model(own_bias=True)
    balance, optimizer = attach(adapted), torch.optim.SGD(adapted.parameters())
    adapted.peft_config = {}  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="adapter folder will hold no bias"):
        balance.watch(optimizer)
    balance.watch(optimizer)


def test_mixtral_is_exported_as_a_type_with_a_bias_and_routes_alike(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    trained = tiny_model("mixtral", sliding_window=None)
    balance: Balance = evenload.attach(trained, added_bias="keep")
    token_BS = torch.randint(3, 64, (8, 32), generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        trained(input_ids=token_BS)
        balance.step()
    balance.export(tmp_path)
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert exported.config.model_type == "ernie4_5_moe"
    gate = exported.model.layers[1].mlp.gate.moe_statics
    assert torch.equal(gate.e_score_correction_bias[0].detach(), stacked(balance)[1])
    with torch.no_grad():
        expected = trained.eval()(input_ids=token_BS).logits
        torch.testing.assert_close(exported(input_ids=token_BS).logits, expected)
        balance.detach()
        unbiased = trained(input_ids=token_BS).logits
    assert not torch.allclose(unbiased, expected), "the bias matters"


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3_moe", {}, r"no type of transformers is 'qwen3_moe'.*added_bias='fade'"),
        ("mixtral", {"sliding_window": 16}, "sliding_window=16"),
    ],
)
def test_an_export_that_would_not_route_alike_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    balance = evenload.attach(tiny_model(family, **changes), added_bias="keep")
    with pytest.raises(AttachError, match=message):
        balance.export(tmp_path)
