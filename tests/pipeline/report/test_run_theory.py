from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evenload.pipeline.figures.loads import History
from evenload.pipeline.records.shards import SCALARS
from evenload.pipeline.report.run_theory import STATEMENTS, Verdict, conduct, travel, verdicts
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord, TrialState

STEPS, TOKENS, E, K = 40, 256, 8, 2
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _spec(**balancer: Any) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny", "num_experts": E, "top_k": K, "num_layers": 2},
            "balancer": {"kind": "sign", "step_size": 0.01} | balancer,
            "train": {"steps": STEPS, "batch_sequences": 4, "seq_len": 64},
            "runtime": {"backend": "torch", "device": "cpu"},
        }
    )


def _trial(spec: TrialSpec) -> TrialRecord:
    return TrialRecord(
        digest="d" * 16,
        label=spec.balancer.label,
        spec=spec.model_dump(mode="json"),
        state=TrialState.COMPLETED,
        attempt=1,
        failures=0,
        progress=None,
        result={},
        error=None,
        worker=None,
        run_id=None,
        checkpoint_uri=None,
        lease_until=None,
        heartbeat_at=None,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW,
    )


def _fair(steps: int = STEPS) -> NDArray[np.int32]:
    rng = np.random.default_rng(0)
    choice_ST = np.stack([rng.permutation(E)[:K] for _ in range(steps * TOKENS)])
    count_SE = np.stack(
        [np.bincount(part.ravel(), minlength=E) for part in choice_ST.reshape(steps, TOKENS, K)]
    )
    return count_SE[:, None, :].astype(np.int32)


def _history(count_SLE: NDArray[np.int32], move_SE: NDArray[np.float64]) -> History:
    bias_SE = np.concatenate([np.zeros((1, E)), move_SE.cumsum(axis=0)[:-1]])
    S = len(count_SLE)
    return History(
        np.arange(1, S + 1),
        count_SLE,
        bias_SE[:, None, :].astype(np.float32),
        {name: np.ones(S) for name in SCALARS},
    )


def _verdicts(spec: TrialSpec, *chunks: History) -> dict[str, Verdict]:
    found = verdicts(_trial(spec), conduct(chunks, spec))
    return {verdict.statement: verdict for verdict in found}


def _moves(size: float, turning: bool) -> NDArray[np.float64]:
    direction_E = np.array([1.0] * (E // 2) + [-1.0] * (E // 2)) * size
    sign_S = np.array([(-1) ** step if turning else 1 for step in range(STEPS)])
    return sign_S[:, None] * direction_E


def test_all_statements_hold_for_a_fair_run_in_its_cycle() -> None:
    found = _verdicts(_spec(), _history(_fair(), _moves(0.01, turning=True)))
    assert set(found) == set(STATEMENTS)
    assert all(verdict.holds for verdict in found.values()), found


def test_a_token_counted_twice_is_found() -> None:
    count_SLE = _fair()
    count_SLE[3, 0, 0] += 1
    found = _verdicts(_spec(), _history(count_SLE, _moves(0.01, turning=True)))
    assert not found["counts"].holds
    assert found["counts"].observed == "1 do"


def test_loads_more_even_than_chance_break_the_floor_unless_the_rule_sees_later_tokens() -> None:
    exact = np.full((STEPS, 1, E), TOKENS * K // E, np.int32)
    history = _history(exact, _moves(0.01, turning=True))
    assert not _verdicts(_spec(), history)["floor"].holds
    leaking = TrialSpec.model_validate(
        _spec().model_dump(mode="json") | {"balancer": {"kind": "bip"}}
    )
    assert "floor" not in _verdicts(leaking, history)


def test_a_common_drift_breaks_the_statement_of_rules_that_centre_biases() -> None:
    drifting = _moves(0.01, turning=True) + 0.001
    assert not _verdicts(_spec(), _history(_fair(), drifting))["centred"].holds
    assert "centred" not in _verdicts(_spec(centred=False), _history(_fair(), drifting))


def test_a_spread_beyond_the_steps_is_found() -> None:
    at_the_limit = _verdicts(_spec(), _history(_fair(), _moves(0.01, turning=False)))
    assert at_the_limit["travel"].holds
    assert "the step is too small" in at_the_limit["travel"].observed
    outrun = _verdicts(_spec(), _history(_fair(), _moves(0.011, turning=False)))
    assert not outrun["travel"].holds


def test_biases_that_never_turn_back_are_not_in_a_cycle() -> None:
    found = _verdicts(_spec(), _history(_fair(), _moves(0.01, turning=False)))
    assert not found["cycle"].holds
    assert "still drifting" in found["cycle"].observed
    decaying = _spec(schedule="inverse", step_size=0.3)
    assert "cycle" not in _verdicts(decaying, _history(_fair(), _moves(0.01, turning=False)))


@pytest.mark.parametrize(
    ("schedule", "total"), [("constant", 3.0), ("inverse", 11 / 6), ("inverse_sqrt", 2.28446)]
)
def test_travel_is_the_sum_of_the_scheduled_steps(schedule: str, total: float) -> None:
    found = travel(_spec(step_size=0.1, schedule=schedule).balancer, 3)
    assert found == pytest.approx(0.1 * total, rel=1e-5)


def test_other_rules_have_no_travel() -> None:
    assert travel(_spec(kind="proportional", step_size=0.1).balancer, 3) is None


def test_chunks_give_the_same_conduct_as_the_whole() -> None:
    spec, whole = _spec(), _history(_fair(), _moves(0.01, turning=True))
    parts = [
        History(
            whole.step_S[a:b],
            whole.count_SLE[a:b],
            whole.bias_SLE[a:b],
            {name: values[a:b] for name, values in whole.scalars.items()},
        )
        for a, b in ((0, 7), (7, 33), (33, STEPS))
    ]
    assert conduct(parts, spec) == pytest.approx(conduct([whole], spec))


def test_a_trial_without_steps_has_no_verdicts() -> None:
    assert _verdicts(_spec()) == {}
