"""Small random models of the families of transformers, one of each kind; all by a marker."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evenload
from evenload.workers.attach import AttachError, Balance
from infra.research.attach_coverage import batch, cover, experts_arguments
from infra.research.tiny_models import expert_types, tiny_model

pytest.importorskip("transformers")

# status, the bias' name, the unit of the scores
FAMILIES = {
    "deepseek_v2/groups": ("recorded only", "-", "probability"),
    "deepseek_v3": ("balanced", "e_score_correction_bias", "probability"),
    "deepseek_v4": ("balanced", "e_score_correction_bias", "sqrt-softplus"),
    "dbrx": ("balanced", "added", "probability"),
    "doge": ("refused", "-", "-"),
    "ernie4_5_moe": ("balanced", "e_score_correction_bias", "probability"),
    "flint": ("balanced", "added", "probability"),
    "gemma4_text": ("balanced", "added", "probability"),
    "gpt_oss": ("balanced", "added", "logit"),
    "jetmoe": ("balanced", "added", "logit"),
    "kolibri1": ("balanced", "e_score_correction_bias", "logit"),
    "lfm2_moe": ("balanced", "expert_bias", "probability"),
    "llama4_text": ("balanced", "added", "logit"),
    "longcat_flash": ("balanced", "e_score_correction_bias", "probability"),
    "phimoe": ("recorded only", "-", "logit"),
    "qwen3_moe": ("balanced", "added", "probability"),
    "zaya": ("balanced", "balancing_biases", "probability"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_router_is_balanced_recorded_or_refused(family: str) -> None:
    """`cover` compares counts with tokens and with the experts' arguments, and outputs before
    attaching and after detaching."""
    found = cover(family)
    assert (found.status, found.bias, found.unit) == FAMILIES[family]
    assert found.wrong == ()


@pytest.mark.integration
@pytest.mark.parametrize("model_type", expert_types())
def test_no_type_is_silently_wrong(model_type: str) -> None:
    assert cover(model_type).wrong == ()


def attach(model: nn.Module, rule: Any = "self_tuned", **options: Any) -> Balance:
    balance: Balance = evenload.attach(model, rule, **{"added_bias": "keep"} | options)
    return balance


def used_by_experts(model: Any, **arguments: Any) -> list[Tensor]:
    with experts_arguments(model) as used:
        model(**arguments).logits.float().logsumexp(dim=-1).mean().backward()
    return [expert_TK.flatten().bincount(minlength=8) for expert_TK in used]


@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_transformers_counts_once(family: str, reentrant: bool) -> None:
    token_BS, mask_BS = batch()
    results = []
    for checkpointing in (False, True):
        model: Any = tiny_model(family)
        balance = attach(model)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        for _ in range(3):
            model(input_ids=token_BS, attention_mask=mask_BS, labels=token_BS).loss.backward()
            balance.step()
        results.append((balance.counts(), balance.biases()))
    for plain, recomputed in zip(*results, strict=True):
        assert plain.keys() == recomputed.keys()
        assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_autocast_to_bfloat16_counts_what_the_experts_got() -> None:
    model = tiny_model("gpt_oss")
    balance = attach(model)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            used = used_by_experts(model, input_ids=batch()[0])
        balance.step()
        for count_E, expected in zip(balance.counts().values(), used, strict=True):
            assert torch.equal(count_E, expected)
    assert all(bias_E.dtype == torch.float32 for bias_E in balance.biases().values())


@pytest.mark.parametrize("family", ["qwen3_moe", "minimax_m2", "gpt_oss"])
def test_a_bfloat16_model_is_balanced_in_float32(family: str) -> None:
    model = tiny_model(family).bfloat16()
    balance = attach(model)
    violations = []
    for _ in range(20):
        model(input_ids=batch()[0])
        balance.step()
        violations.append(max(balance.max_vio().values()))
    assert violations[-1] < violations[0] / 2
    biases = [b for name, b in model.named_buffers() if name.endswith("_bias")]
    assert len(biases) == 3
    assert all(bias.dtype == torch.float32 for bias in biases)


def test_generation_in_training_mode_and_the_mask_of_a_cached_prefix_are_left_out() -> None:
    model: Any = tiny_model("qwen3_moe")
    balance = attach(model)
    token_BS = torch.randint(3, 64, (2, 5))
    model.generate(token_BS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    past = model(input_ids=token_BS).past_key_values
    balance.step()
    assert balance.steps == 1
    longer_BS = torch.cat([torch.zeros(2, 5), torch.ones(2, 2)], dim=1)
    model(input_ids=token_BS[:, :2], attention_mask=longer_BS, past_key_values=past)
    balance.step()
    assert all(count_E.sum() == 2 * 2 * 2 for count_E in balance.counts().values())


def test_classes_that_compute_nothing_keep_their_share_while_experts_are_balanced() -> None:
    """Balancing all 12 classes of LongCat would give its 4 zero experts a third of the load."""
    model = tiny_model("longcat_flash")
    biases = [b for name, b in model.named_buffers() if "e_score" in name]
    for bias in biases:
        bias += 0.5  # which means nothing, so that taking it from the experts alone would
        bias[8:] += 0.02  # zero experts are wanted more often
    balance = attach(model)
    idle, violations = [], []
    for _ in range(25):
        model(input_ids=batch()[0])
        balance.step()
        violations.append(sum(balance.max_vio().values()))
        idle.append([float(c[8:].sum() / c.sum()) for c in balance.counts().values()])
    assert violations[-1] < violations[0] / 3
    assert idle[-1] == pytest.approx(idle[0], abs=0.05)
    assert min(idle[-1]) > 0.5


def test_a_copy_of_a_hugging_face_model_routes_alike() -> None:
    model: Any = tiny_model("mixtral")
    balance = attach(model)
    model(input_ids=batch()[0])
    balance.step()
    copied = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = model.eval()(input_ids=batch()[0]).logits
        assert torch.equal(copied(input_ids=batch()[0]).logits, expected)


def test_router_logits_of_transformers_are_recorded_as_before() -> None:
    model: Any = tiny_model("qwen3_moe", output_router_logits=True)
    token_BS = batch()[0]
    with torch.no_grad():
        before = model(input_ids=token_BS)
        balance = attach(model)
        after = model(input_ids=token_BS)
    assert len(after.router_logits) == len(before.router_logits) == 3
    assert torch.equal(after.aux_loss, before.aux_loss)
    balance.detach()


def test_a_family_that_stays_unbalanced_says_how_to_record_it() -> None:
    model = tiny_model("phimoe")
    with pytest.raises(AttachError, match=r"no router can be balanced.*rule='none' records"):
        attach(model)
    balance = attach(model, "none")
    model(input_ids=batch()[0])
    balance.step()
    assert all(count_E.sum() == 256 * 2 for count_E in balance.counts().values())


def test_layers_that_cannot_be_balanced_among_others_are_said() -> None:
    with pytest.warns(
        UserWarning, match=r"recorded without balancing: model\.layers\.0\.mlp\.gate"
    ):
        attach(tiny_model("deepseek_v4"))


@pytest.mark.parametrize("family", ["gpt_oss", "kolibri1", "deepseek_v4"])
def test_the_histogram_of_quantile_is_refused_beyond_its_range(family: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(AttachError, match=r"made for scores in \(0, 1\): use self_tuned"):
            attach(tiny_model(family), "quantile")


def test_a_frozen_adapter_base_is_balanced_on_an_added_bias_not_on_a_linear_one() -> None:
    """All parameters frozen, as under LoRA: gpt_oss's router has a linear bias of that size."""
    model = tiny_model("gpt_oss").requires_grad_(False)
    assert {layer.kind for layer in attach(model).layers} == {"added"}
