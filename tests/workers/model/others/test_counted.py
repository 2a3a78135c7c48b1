"""What a model of others is found to be before it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.model.others import counted
from tests.other_models import folder_of

Trial = Callable[..., TrialSpec]


def test_layers_with_experts_are_found_among_dense_ones(trial_of: Trial) -> None:
    model = trial_of("qwen3_moe").model
    assert model.load_shape.layers == ("0", "2")
    assert (model.num_experts, model.top_k, model.vocab_size) == (8, 2, 48)
    assert (model.built.scores, model.built.bias) == ("probability", "added")


@pytest.mark.parametrize(
    ("kind", "scores", "bias", "layers"),
    [
        ("deepseek_v3", "probability", "own", ["1", "2"]),
        ("deepseek_v2", "probability", "none", ["1", "2"]),
        ("gpt_oss", "logit", "added", ["0", "1"]),
        ("python", "probability", "added", ["0", "2"]),
    ],
)
def test_every_family_is_told_apart(
    trial_of: Trial, kind: str, scores: str, bias: str, layers: list[str]
) -> None:
    model = trial_of(kind, "none").model
    assert (model.built.scores, model.built.bias, list(model.load_shape.layers)) == (
        scores,
        bias,
        layers,
    )


def test_weights_and_flops_of_mixtral_are_those_of_its_dimensions(trial_of: Trial) -> None:
    size = model_size(trial_of("mixtral").model)
    layers, width, hidden, words, experts = 2, 32, 24, 48, 8
    attention = 2 * width * width + 2 * width * width // 2
    expert, router, norms = 3 * width * hidden, experts * width, 2 * width
    block = attention + router + norms
    assert size.parameters == layers * (block + experts * expert) + 2 * words * width + width
    assert size.active_parameters == size.parameters - layers * (experts - 2) * expert
    assert size.routed_flops_per_token == layers * 2 * 2 * expert
    products = 2 * (layers * (attention + router + 2 * expert) + words * width)
    assert size.forward_flops_per_token(16) == products + layers * 4 * width * 16
    assert size.train_flops_per_token(16) == 3 * size.forward_flops_per_token(16)


def test_experts_in_a_list_of_modules_are_counted(trial_of: Trial) -> None:
    model = trial_of("python").model
    assert model.built.expert_parameters == 2 * 8 * (16 * 16 + 16)


def test_a_model_that_looks_at_values_is_built_for_real(
    trial_of: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trial_of("python", factory="tests.other_models:careful").model
    assert model.built.parameters == trial_of("python").model.built.parameters
    monkeypatch.setattr(counted, "LARGEST_REAL", 1000)
    with pytest.raises(SpecError, match=r"careful' has 0\.0e9 weights, too many .*smaller model"):
        trial_of("python", factory="tests.other_models:careful", arguments={"words": 48})


def test_sizes_may_be_changed_by_common_and_by_own_names(trial_of: Trial) -> None:
    model = trial_of(
        "deepseek_v3", num_experts=4, top_k=1, config={"moe_intermediate_size": 24}
    ).model
    assert (model.num_experts, model.top_k) == (4, 1)
    assert model.built.expert_parameters == 2 * 4 * 3 * 32 * 24


def test_the_folder_is_part_of_the_identity(trial_of: Trial, tmp_path: Path) -> None:
    before = trial_of("mixtral")
    folder_of("mixtral", tmp_path / "mixtral", rope_theta=5000.0)
    after = trial_of("mixtral")
    assert before.model.built.content != after.model.built.content
    assert before.digest("c", "v") != after.digest("c", "v")


def test_a_large_model_is_counted_without_its_weights(trial_of: Trial) -> None:
    changes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    changes |= {"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000}
    size = model_size(trial_of("mixtral", config=changes).model)  # 187 GB in float32
    assert size.parameters == 46_702_792_704
    assert size.active_parameters == 12_879_925_248


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("llama", {}, r"model\.path='.*llama': LlamaForCausalLM has no router"),
        ("mixtral", {"path": "nowhere"}, r"model\.path='nowhere': no config\.json there; name a"),
        ("mixtral", {"config": {"hiden_size": 3}}, r"model\.config\.hiden_size=3: mixtral has no"),
        ("mixtral", {"weights": True}, r"no weights there .*set model\.weights: false"),
        ("mixtral", {"config": {"num_attention_heads": 5}}, r"model\.path='.*mixtral': .*divide"),
        ("llama", {"num_experts": 4}, r"model\.num_experts=4: .* has none of num_experts, "),
        ("python", {"factory": "tests.nothing:f"}, r"'tests\.nothing:f' cannot be imported: "),
        ("python", {"factory": "tests.other_models:g"}, r"other_models:g' cannot be imported: "),
        ("python", {"vocab_size": 40}, r"shape \(2, 19, 48\) for \(2, 19\) .* vocab_size=40; make"),
        (
            "python",
            {"factory": "tests.other_models:nothing"},
            "nothing': .* of the shape",
        ),
        ("python", {"factory": "tests.small_model:SMALL_MODEL"}, "fails: TypeError: 'dict' object"),
        ("python", {"arguments": {"size": 2}}, r"mixture' fails: TypeError: .*model\.arguments"),
        ("python", {"factory": "tests.other_models:number"}, "number' returns a int, not a torch"),
        (
            "python",
            {"factory": "tests.other_models:dense"},
            "dense': Sequential has no router",
        ),
    ],
)
def test_bad_models_are_refused_with_key_and_remedy(
    trial_of: Trial, kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        trial_of(kind, **changes)


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        ("deepseek_v2", "sign", "routers choose groups first and have no bias of their own"),
        ("deepseek_v3", "sinkhorn", "selects by more than a bias"),
        ("gpt_oss", "aux_loss", r"takes scores in \(0, 1\), and the routers select on a logit"),
        ("gpt_oss", "quantile", r"takes scores in \(0, 1\)"),
        ("mixtral", "expert_choice", "lets experts choose tokens"),
    ],
)
def test_rules_that_the_model_cannot_have_are_refused(
    trial_of: Trial, kind: str, rule: str, message: str
) -> None:
    with pytest.raises(SpecError, match=f"balancer.kind='{rule}' cannot balance .*{message}"):
        trial_of(kind, rule)


def test_without_transformers_the_message_names_the_extra(
    trial_of: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    import evenload.pipeline.extras as extras

    monkeypatch.setattr(extras, "find_spec", lambda library: None)
    with pytest.raises(SpecError, match=r"transformers is not installed; run: .*evenload\[hf\]"):
        trial_of("mixtral")


def test_the_installed_transformers_is_part_of_the_identity(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from evenload.workers.training import identity

    own, before = identity.core_version("sign"), identity.core_version("sign", "huggingface")
    identity.core_version.cache_clear()
    monkeypatch.setattr(identity, "version", lambda name: transformers.__version__ + "1")
    assert identity.core_version("sign") == own
    assert identity.core_version("sign", "huggingface") != before
    identity.core_version.cache_clear()
