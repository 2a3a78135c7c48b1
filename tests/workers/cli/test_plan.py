from __future__ import annotations

from collections.abc import Callable
from typing import Any

Sweep = Callable[..., dict[str, Any]]


def test_a_plan_starts_nothing(here: Any, sweep: Sweep) -> None:
    ended = here("sweep", "plan", here.write("sweep.yaml", sweep()), "--json")
    assert ended.code == 0, ended.err
    plan = ended.document["trials"]
    assert [row["tokens"] for row in plan] == [24 * 4 * 32] * 2
    assert all(row["train_flops"] > 6 * row["active_parameters"] for row in plan)
    assert not (here.folder / ".evenload" / "evenload.db").exists()
