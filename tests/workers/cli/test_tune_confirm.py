"""A sweep that searches, stops and confirms, with a real Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
Sweep = Callable[..., dict[str, Any]]
RATE = {"low": 0.00001, "high": 0.02, "log": True}


def test_a_sweep_searches_stops_and_confirms(evenload: Any, sweep: Sweep) -> None:
    """Learning rates over three decades, so that trials that do not learn are stopped."""
    axes: dict[str, Any] = {
        "balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}],
        "train.learning_rate": RATE,
    }
    tree = sweep(axes=axes, train={"steps": 40}, eval={"tokens": 1024, "every_steps": 5})
    path = evenload.write(
        "sweep.yaml",
        tree
        | {
            "search": {"kind": "tpe", "startup": 4, "settings": 5},
            "stopping": {"kind": "asha", "slack": 0.0},
            "confirm": {"top": 1, "seeds": [5]},
        },
    )
    ended = evenload("sweep", "run", path, "--json", "--slots", "2")
    assert ended.code == 0, ended.err
    found = ended.document
    stages = Counter(trial["stage"] for trial in found["trials"])
    assert stages == {"tune": 5, "confirm": 2}  # the best, and `none` at its better rate
    confirm = [trial for trial in found["trials"] if trial["stage"] == "confirm"]
    assert {trial["spec"]["train"]["seed"] for trial in confirm} == {5}
    assert {trial["state"] for trial in confirm} == {"completed"}
    for stopped in (trial for trial in found["trials"] if trial["state"] == "stopped"):
        assert stopped["stop_reason"].startswith("asha: held-out loss ")
    assert found["evidence"]["stage"] == "confirm"
    assert not found["is_provisional"]
    (answer,) = found["answer"]
    assert "no claim about loss: one seed does not show" in answer
    assert len(found["evidence"]["targets"]) == 2

    again = evenload("sweep", "run", path, "--json")
    assert again.code == 0, again.err
    assert [t["attempt"] for t in again.document["trials"]] == [
        t["attempt"] for t in found["trials"]
    ]
