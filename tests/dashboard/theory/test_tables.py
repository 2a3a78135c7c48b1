from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenload.dashboard.theory.tables import (
    LAWS,
    has_jump,
    regret_curves,
    row_table,
    spectrum_E,
    verdict_table,
)
from evenload.pipeline.spec.simulation import SimulationSpec
from evenload.workers.simulation.regret import GROWTHS
from evenload.workers.simulation.run import simulate


@pytest.fixture(scope="module")
def document() -> Any:
    spec = {
        "tokens": 128,
        "num_experts": 8,
        "top_k": 2,
        "steps": 40,
        "seeds": 1,
        "streams": {"still": {"kind": "gaussian"}, "jump": {"kind": "gaussian", "jump_at": 0.5}},
        "rules": [{"kind": "none"}, {"kind": "self_tuned"}],
    }
    return simulate(SimulationSpec.model_validate(spec), theory=True).to_dict()


def test_laws_are_those_that_the_workers_fit() -> None:
    step_P = np.array([1.0, 4.0, 9.0])
    assert list(LAWS) == list(GROWTHS)
    for name, law in LAWS.items():
        np.testing.assert_array_equal(law(step_P), GROWTHS[name](step_P))


def test_rows_are_those_of_one_stream(document: Any) -> None:
    table = row_table(document, "jump")
    assert table.rule.tolist() == ["none", "self_tuned"]
    assert table.to_balance[0] == "never"
    assert table.max_vio[0] > 3 * table.max_vio[1]
    assert np.isnan(table.max_vio_error[0])  # one seed has no error
    assert (has_jump(document, "jump"), has_jump(document, "still")) == (True, False)


def test_fitted_law_is_close_to_the_regret(document: Any) -> None:
    curve = regret_curves(document, "still")["none"]
    assert curve.law == "N"
    assert abs(curve.fit_P - curve.regret_P)[10:].max() < 0.1 * curve.regret_P[-1]


def test_every_stream_has_its_own_spectrum(document: Any) -> None:
    still, jump = spectrum_E(document, "still"), spectrum_E(document, "jump")
    assert still is not None
    assert jump is not None
    assert len(still) == 8
    assert not np.array_equal(still, jump)
    assert spectrum_E(document, "nowhere") is None


def test_statements_end_with_the_regret(document: Any) -> None:
    table = verdict_table(document, "still", "none")
    assert len(table) == 8
    assert table.Finding.iloc[-1].endswith("like N")
