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


def test_a_plan_that_would_be_refused_here_is_no_success(here: Any, sweep: Sweep) -> None:
    path = here.write("large.yaml", sweep(model={"d_model": 65536, "d_expert": 65536}))
    ended = here("sweep", "plan", path)
    assert ended.code == 2
    assert "would be refused here: none with 8 experts needs about" in ended.err
    as_json = here("sweep", "plan", path, "--json")
    assert (as_json.code, len(as_json.document["refused"])) == (2, 2)


def test_a_plan_says_that_there_are_fewer_settings_than_asked(here: Any, sweep: Sweep) -> None:
    asked = sweep() | {"search": {"kind": "random", "settings": 9}}
    ended = here("sweep", "plan", here.write("few.yaml", asked), "--json")
    assert ended.document["notes"] == [
        "9 settings are asked for, but the axes have only 2 that differ"
    ]


def test_a_plan_says_that_the_disk_is_too_small(here: Any, sweep: Sweep) -> None:
    long = sweep(train={"steps": 10**9, "batch_sequences": 4, "seq_len": 32, "warmup_steps": 0})
    ended = here("sweep", "plan", here.write("long.yaml", long))
    said = " ".join(ended.err.split())
    assert "of disk, and" in said
    assert "are free for the home" in said
    assert "free space, or name another home" in said


def test_a_long_plan_shows_its_first_trials_and_the_sums_of_all(here: Any, sweep: Sweep) -> None:
    many = sweep(axes={"train.seed": list(range(120))})
    ended = here("sweep", "plan", here.write("many.yaml", many))
    assert ended.code == 0, ended.err
    assert sum(line.startswith("│ none") for line in ended.out.splitlines()) == 100
    assert "and 20 others" in ended.out
    assert "120 trials, nothing started" in ended.out
