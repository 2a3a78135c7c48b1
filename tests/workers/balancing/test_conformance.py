"""Every rule, with every set of parameters listed here, keeps the contract in balancing/base.py.

A new rule adds its parameters to the list; it needs no test file. Letters: L layers, E experts.
"""

from __future__ import annotations

import inspect
import io
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import evenload.workers.balancing
from evenload.pipeline.spec.balancers import BALANCERS, PACE
from evenload.workers.balancing.base import Observation

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    *[("aux_loss", {"scope": scope}) for scope in ("local", "sequence", "global")],
    ("aux_loss", {"groups": 4}),
    ("lion", {"step_size": 0.02, "beta1": 0.5, "beta2": 0.5}),
    ("sign", {"step_size": 0.02}),
    ("sign", {"step_size": 0.15, "schedule": "inverse_sqrt"}),
    ("sign", {"step_size": 0.5, "schedule": "inverse"}),
    ("sign", {"step_size": 0.02, "centred": False}),
    ("sign", {"step_size": 0.02, "warm_until": 0.6, "freeze_from": 0.8}),
    ("sign", {"step_size": 0.02, "decay_from": 0.5, "decay_shape": "cosine"}),
    ("sign", {"step_size": 0.04, "every": 2}),
    ("sign", {"step_size": 0.02, "aux": {"coefficient": 1e-3}}),
    ("smebu", {"step_size": 0.06, "every": 2}),
    ("proportional", {"step_size": 0.03}),
    ("proportional", {"step_size": 0.2, "schedule": "inverse_sqrt"}),
    ("proportional", {"step_size": 0.5, "schedule": "inverse"}),
    ("proportional", {"step_size": 0.02, "normalise": "rms"}),
    ("smebu", {"step_size": 0.02}),
    ("ema", {"step_size": 0.02}),
    ("quantile", {}),
    ("quantile", {"method": "exact"}),
    ("quantile", {"memory": 0.5}),
    ("sinkhorn", {}),
    ("bip", {}),
    ("kalman", {}),
    ("self_tuned", {}),
    ("random_router", {}),
    ("frozen_router", {}),
    ("frozen_router", {"step_size": 0.03}),
    ("expert_choice", {}),
]
# A rule that only the table lists runs through the suite with its defaults.
VARIANTS += [
    (kind, {name: default for name, (_, default) in rule.params.items()})
    for kind, rule in BALANCERS.items()
    if kind not in {known for known, _ in VARIANTS}
]
STILL = ("none", "aux_loss", "sinkhorn", "bip", "random_router", "expert_choice")
MOVING = [
    (kind, params)
    for kind, params in VARIANTS
    if kind not in STILL and (kind, params) != ("frozen_router", {})
]
TARGET = (0.25, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)


def label(value: object) -> str | None:
    return str(value) if isinstance(value, str) else ",".join(map(str, value.values())) or "default"


every_rule = pytest.mark.parametrize(("kind", "params"), VARIANTS, ids=label)
moving_rules = pytest.mark.parametrize(("kind", "params"), MOVING, ids=label)


def fields(state: Any) -> dict[str, torch.Tensor]:
    return dict(state._asdict())


def same(left: Any, right: Any) -> bool:
    pairs = zip(fields(left).values(), fields(right).values(), strict=True)
    return all(torch.equal(a, b) and a.dtype == b.dtype for a, b in pairs)


def test_the_table_and_the_files_name_the_same_rules() -> None:
    folder = Path(evenload.workers.balancing.__file__).parent
    files = {path.stem for path in folder.glob("*.py") if "\ndef make(" in path.read_text()}
    assert files == set(BALANCERS)
    assert {kind for kind, _ in VARIANTS} == set(BALANCERS)


@pytest.mark.parametrize("kind", BALANCERS)
def test_a_factory_takes_what_the_table_names_and_has_no_defaults(kind: str) -> None:
    parameters = inspect.signature(
        import_module(f"evenload.workers.balancing.{kind}").make
    ).parameters
    own = BALANCERS[kind].params.keys() - PACE.keys()
    assert set(parameters) == {*own, *BALANCERS[kind].context}
    assert all(p.default is p.empty and p.kind is p.KEYWORD_ONLY for p in parameters.values())


@every_rule
def test_update_is_deterministic_and_leaves_its_inputs_alone(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    _, state = lab.run(rule, 3)
    score = lab.scores(9)
    score_before, bias_before = score.clone(), state.bias_LE.clone()
    observation = lab.observe(rule, state, score)
    inputs = [tensor for tensor in (*observation, *state) if isinstance(tensor, torch.Tensor)]
    copies = [tensor.clone() for tensor in inputs]
    assert same(rule.update(observation, state), rule.update(observation, state))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))
    assert torch.equal(score, score_before)
    assert torch.equal(state.bias_LE, bias_before)


@every_rule
def test_bias_is_float32_with_zero_mean_and_without_gradient(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    _, state = lab.run(lab.make(kind, **params), 12)
    assert state.bias_LE.dtype == torch.float32
    assert not state.bias_LE.requires_grad
    if params.get("centred", True):
        assert state.bias_LE.mean(dim=-1).abs().max() < 1e-6, f"{kind} does not centre its bias"


@every_rule
def test_a_step_without_tokens_leaves_a_finite_state(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    start = rule.init(2, 8, torch.device("cpu"))
    _, moved = lab.run(rule, 3)
    for state in (start, moved):
        empty = lab.observe(rule, state, lab.scores(0)[:, :0])
        after = rule.update(empty, state)
        assert all(value.isfinite().all() for value in after)
        assert (after.bias_LE - state.bias_LE).abs().max() < 0.1


@every_rule
def test_experts_without_a_token_leave_a_finite_state(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    state = rule.init(2, 8, torch.device("cpu"))
    score = lab.scores(0)
    score[..., 5:] = 0
    for _ in range(3):
        state = rule.update(lab.observe(rule, state, score), state)
    assert all(value.isfinite().all() for value in state)


@pytest.mark.parametrize(
    ("kind", "params"),
    [(kind, params) for kind, params in VARIANTS if "step_size" in BALANCERS[kind].params],
    ids=label,
)
def test_step_size_zero_moves_nothing(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    _, state = lab.run(lab.make(kind, **{**params, "step_size": 0.0}), 3)
    assert torch.equal(state.bias_LE, torch.zeros(2, 8))


@every_rule
def test_stacked_layers_equal_single_ones_bit_for_bit(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    stacked = rule.init(3, 8, torch.device("cpu"))
    singles = [rule.init(1, 8, torch.device("cpu")) for _ in range(3)]
    for step in range(4):
        seen = lab.observe(rule, stacked, lab.scores(step, layers=3))
        stacked = rule.update(seen, stacked)
        for layer, single in enumerate(singles):
            rows = [x[layer : layer + 1] if isinstance(x, torch.Tensor) else x for x in seen]
            singles[layer] = rule.update(Observation(*rows), single)
    for layer, single in enumerate(singles):
        for name, value in fields(stacked).items():
            row = value[layer : layer + 1] if value.ndim else value
            assert torch.equal(row, fields(single)[name]), f"{kind}: {name} of layer {layer}"


@every_rule
@pytest.mark.parametrize("parts", [2, 8])
def test_splitting_the_tokens_into_micro_batches_changes_nothing(
    lab: SimpleNamespace, kind: str, params: dict[str, Any], parts: int
) -> None:
    rule = lab.make(kind, **params)
    if not rule.causal or kind == "random_router":
        pytest.skip(f"{kind} routes by the micro-batch itself or at random")
    _, state = lab.run(rule, 2)
    whole = rule.update(lab.observe(rule, state, lab.scores(7)), state)
    split = rule.update(lab.observe(rule, state, lab.scores(7), parts=parts), state)
    assert same(whole, split)


@every_rule
def test_state_survives_a_weights_only_file_bit_for_bit(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    _, state = lab.run(rule, 3)
    file = io.BytesIO()
    torch.save(state._asdict(), file)
    file.seek(0)
    loaded = type(state)(**torch.load(file, weights_only=True))
    assert same(state, loaded)
    seen = lab.observe(rule, state, lab.scores(5))
    assert same(rule.update(seen, state), rule.update(seen, loaded))


@every_rule
def test_update_never_waits_for_the_device(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    _, state = lab.run(rule, 2)
    observation = lab.observe(rule, state, lab.scores(3))
    # A meta tensor has no values, so code that reads one raises an error.
    on_meta = [x.to("meta") if isinstance(x, torch.Tensor) else x for x in observation]
    after = rule.update(Observation(*on_meta), type(state)(*(x.to("meta") for x in state)))
    assert [x.shape for x in after] == [x.shape for x in state]
    assert after.bias_LE.device.type == "meta"


@moving_rules
def test_overloaded_experts_fall_and_starved_ones_rise(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    state = rule.init(2, 8, torch.device("cpu"))
    observation = lab.observe(rule, state, lab.scores(0))
    for _ in range(params.get("every", 1)):
        state = rule.update(observation, state)
    bias_LE = state.bias_LE
    assert (observation.count_LE[:, 0] > observation.target_LE[:, 0]).all()
    assert (observation.count_LE[:, -1] < observation.target_LE[:, -1]).all()
    assert (bias_LE[:, 0] < 0).all(), f"{kind} attracts tokens to an overloaded expert"
    assert (bias_LE[:, -1] > 0).all(), f"{kind} repels tokens from a starved expert"


@moving_rules
@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_violation_falls_on_a_stationary_stream(
    lab: SimpleNamespace, kind: str, params: dict[str, Any], gate: str
) -> None:
    if params.get("freeze_from", 1.0) < 1:
        pytest.skip("test_combinators.py tests warming up and freezing")
    # Softmax scores of 8 experts differ less than sigmoid scores, so their steps are smaller.
    if gate == "softmax" and "step_size" in params:
        params = {**params, "step_size": params["step_size"] / 4}
    load_SLE, _ = lab.run(lab.make(kind, **params), 60, gate=gate)
    vio_S = load_SLE.amax(dim=-1).mean(dim=-1) - 1
    assert vio_S[0] > 0.9
    assert vio_S[-10:].mean() < 0.5, f"{kind} ends at {vio_S[-10:].mean():.2f}"


@moving_rules
def test_a_target_that_is_not_uniform_is_met(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    if params.get("freeze_from", 1.0) < 1:
        pytest.skip("test_combinators.py tests warming up and freezing")
    rule = lab.make(kind, target=TARGET, **params)
    load_SLE, _ = lab.run(rule, 60, target=TARGET)
    mean_LE = load_SLE[-10:].mean(dim=0)
    assert (mean_LE - 1).abs().max() < 0.25


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
@pytest.mark.parametrize("target", [None, TARGET], ids=["uniform", "target"])
@pytest.mark.parametrize("kind", ["sinkhorn", "bip"])
def test_rules_that_see_the_whole_batch_balance_it_at_once(
    lab: SimpleNamespace, kind: str, target: tuple[float, ...] | None, gate: str
) -> None:
    rule = lab.make(kind, target=target)
    load_SLE, _ = lab.run(rule, 2, target=target, gate=gate)
    unbalanced_SLE, _ = lab.run(lab.make("none", target=target), 2, target=target, gate=gate)
    assert load_SLE.max() - 1 < 0.7 * (unbalanced_SLE.max() - 1)
    assert rule.causal is False


@pytest.mark.parametrize("kind", BALANCERS)
def test_table_and_rule_agree_on_which_rules_see_later_tokens(
    lab: SimpleNamespace, kind: str
) -> None:
    assert lab.make(kind).causal is not BALANCERS[kind].leaks_future


@every_rule
def test_adjusting_a_token_does_not_depend_on_others_unless_labelled(
    lab: SimpleNamespace, kind: str, params: dict[str, Any]
) -> None:
    rule = lab.make(kind, **params)
    if kind in ("random_router", "expert_choice"):
        pytest.skip(f"{kind} draws at random, or its choice is made by the model")
    score_TE = lab.scores(0, layers=1)[0]
    bias_E = torch.linspace(-0.1, 0.1, 8)
    alone = torch.equal(rule.adjust(score_TE, bias_E)[:100], rule.adjust(score_TE[:100], bias_E))
    assert alone is rule.causal
