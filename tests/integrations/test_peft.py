"""Adapters of PEFT: they hold no bias, and their base model's routers are balanced all the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evenload
from evenload.workers.attach import AttachError, Balance
from tests.integrations.texts import LAYERS, TOP_K, stored, tiny

KINDS = ("qwen3_moe", "deepseek_v3")
ADAPTER = "this is a PEFT model, and its adapter folder will hold no bias"
ATTENTION = {"qwen3_moe": ["q_proj", "v_proj"], "deepseek_v3": ["q_b_proj", "o_proj"]}
EXPERTS = ["mlp.experts.gate_up_proj"]


def adapted(model: Any, kind: str = "qwen3_moe", **options: Any) -> Any:
    import peft

    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=2, target_modules=ATTENTION[kind], target_parameters=EXPERTS, task_type="CAUSAL_LM"
        ),
        **options,
    )


def train(model: nn.Module, balance: Balance, steps: int = 3) -> None:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.01)
    balance.watch(optimizer)
    for step in range(steps):
        token_BS = tokens(step)
        mask_BS = torch.ones_like(token_BS)
        mask_BS[0, :4] = 0
        loss = model(input_ids=token_BS, attention_mask=mask_BS, labels=token_BS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def tokens(seed: int) -> Tensor:
    return torch.randint(3, 64, (4, 12), generator=torch.Generator().manual_seed(seed))


UNPADDED = 4 * 12 - 4


@pytest.mark.parametrize("first", ["attach", "adapter"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_adapter_folder_holds_no_bias_and_ours_beside_it_does(
    kind: str, first: str, tmp_path: Path
) -> None:
    import peft
    from safetensors import safe_open

    base = stored(tmp_path / "base", kind)
    if first == "attach":
        balance = evenload.attach(base, added_bias="keep")
        model = adapted(base, kind)
        with pytest.warns(match=ADAPTER):
            train(model, balance)
    else:
        model = adapted(base, kind)
        with pytest.warns(match=ADAPTER):
            balance = evenload.attach(model, added_bias="keep")
        train(model, balance)
    assert balance.steps == 3
    assert all(count_E.sum() == TOP_K * UNPADDED for count_E in balance.counts().values())
    model.save_pretrained(tmp_path / "adapter")
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert [name for name in file.keys() if "bias" in name] == []  # noqa: SIM118
    balance.save(tmp_path / "adapter")

    import transformers

    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(again, tmp_path / "adapter")
    with pytest.warns(match=ADAPTER):
        resumed = evenload.attach(loaded, added_bias="keep", resume=tmp_path / "adapter")
    assert all(bias_E.any() for bias_E in balance.biases().values())
    before, after = (list(each.biases().values()) for each in (balance, resumed))
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    with torch.no_grad():
        expected = model.eval()(input_ids=tokens(9)).logits
        assert torch.equal(loaded.eval()(input_ids=tokens(9)).logits, expected)


def test_a_merged_model_keeps_the_bias(tmp_path: Path) -> None:
    import transformers

    model = adapted(tiny("deepseek_v3"), "deepseek_v3")
    with pytest.warns(match=ADAPTER):
        balance = evenload.attach(model)
    train(model, balance)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    saved = [layer.mlp.gate.e_score_correction_bias for layer in plain.model.layers[1:]]
    assert all(map(torch.equal, saved, balance.biases().values()))
    with torch.no_grad():
        expected = merged.eval()(input_ids=tokens(9)).logits
        torch.testing.assert_close(plain(input_ids=tokens(9)).logits, expected)


def test_the_reference_without_adapter_does_not_count() -> None:
    model = adapted(tiny())
    with pytest.warns(match=ADAPTER):
        balance = evenload.attach(model, added_bias="keep")
    with model.disable_adapter(), torch.no_grad():
        assert model.training
        model(input_ids=tokens(0))
    train(model, balance, steps=1)
    assert all(count_E.sum() == TOP_K * UNPADDED for count_E in balance.counts().values())


def test_prompt_tuning_lengthens_the_mask() -> None:
    import peft

    added = 3
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=added)
    model = peft.get_peft_model(tiny(), config)
    with pytest.warns(match=ADAPTER):
        balance = evenload.attach(model, added_bias="keep")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "model.*attention_mask")
        train(model, balance, steps=1)
    counted = {int(count_E.sum()) for count_E in balance.counts().values()}
    assert counted == {TOP_K * (UNPADDED + 4 * added)}


def gates_too(model: Any) -> Any:
    import peft

    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["gate"])
    return peft.get_peft_model(model, config)


def test_routers_that_an_adapter_trains_are_balanced_if_it_comes_first() -> None:
    model = gates_too(tiny())
    with pytest.warns(match=ADAPTER):
        balance = evenload.attach(model, added_bias="keep")
    assert len(balance.layers) == LAYERS
    assert all("modules_to_save" in layer.name for layer in balance.layers)
    train(model, balance)
    assert all(count_E.sum() == TOP_K * UNPADDED for count_E in balance.counts().values())


def test_routers_that_an_adapter_copies_later_are_said() -> None:
    """The copies are trained, and the session sees none of them."""
    model = tiny()
    balance = evenload.attach(model, added_bias="keep")
    model = gates_too(model)
    with pytest.warns(match="3 optimizer steps, but no training forward went through"):
        train(model, balance)
    with pytest.raises(AttachError, match="attached already"):
        evenload.attach(model)
