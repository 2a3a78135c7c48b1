from __future__ import annotations

from typing import Any

import pytest

from evenload.dashboard.sweeps.new_sweep import (
    MAX_FILE_BYTES,
    Asked,
    checked,
    numbers,
    parsed,
    plan,
    plan_table,
    scaled,
    tree_of,
    what_follows,
)
from evenload.pipeline.errors import SpecError


def _asked(**changes: Any) -> Asked:
    small: dict[str, Any] = {
        "name": "small",
        "preset": "tiny",
        "rules": ["none", "sign", "frozen_router", "self_tuned"],
        "step_sizes": [0.001, 0.01],
        "experts": [8, 16],
        "seeds": 2,
        "steps": 100,
        "batch_sequences": 4,
        "seq_len": 32,
        "stopping": "none",
        "confirm_seeds": 0,
    }
    return Asked(**small | changes)


def test_form_expands_to_all_combinations() -> None:
    spec = checked(tree_of(_asked()))
    labels = [trial.label for trial in plan(spec)]
    assert len(labels) == 2 * 2 * 5
    assert list(dict.fromkeys(labels)) == [
        "none",
        "sign 0.001",
        "sign 0.01",
        "frozen_router 0",
        "self_tuned",
    ]
    assert what_follows(spec) == ""


def test_stopping_and_confirmation_add_evaluations_and_seeds() -> None:
    spec = checked(tree_of(_asked(stopping="asha", confirm_seeds=3)))
    assert spec.base["eval"] == {"every_steps": 5}
    assert spec.confirm is not None
    assert spec.confirm.seeds == (2, 3, 4)
    assert "asha stops weak trials" in what_follows(spec)
    assert "3 fresh seeds" in what_follows(spec)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "no spaces"}, "name"),
        ({"rules": []}, "axes.balancer"),
        ({"experts": [1]}, "top_k"),
        ({"experts": range(2, 5000)}, "too many for this page"),
    ],
)
def test_error_names_the_wrong_key(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        checked(tree_of(_asked(**changes)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "not readable as YAML"),
        (b"\xff\xfe", "not readable as YAML"),
        (b"- 1", "holds a list"),
        (b"name: a\nname: b", 'duplicate key "name"'),
        (b"a: &a [x]\nb: *a", "write the part out"),
        (b"x" * (MAX_FILE_BYTES + 1), "at most"),
    ],
)
def test_file_without_a_sweep_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parsed(content)


def test_typed_numbers_are_checked() -> None:
    assert numbers("Step sizes", ["0.5", 0.1], float) == [0.5, 0.1]
    with pytest.raises(SpecError, match=r"Step sizes: .*'abc'"):
        numbers("Step sizes", ["abc"], float)


def test_dry_run_has_one_row_per_trial_with_units() -> None:
    row = plan_table(plan(checked(tree_of(_asked())))).iloc[0]
    assert (row.Rule, row.Experts, row.Seed, row.Tokens) == ("none", 8, 0, "12.8 k")
    assert row.Compute.endswith("FLOP")
    assert row.Memory.endswith("B")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (38.2e6, "38.2 MB"), (2e18, "2 EB")],
)
def test_numbers_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert scaled(value, "B") == text
