from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.simulation import SimulationSpec, load_simulation

SMALL: dict[str, Any] = {"streams": {"still": {"kind": "gaussian"}}, "rules": [{"kind": "none"}]}


def test_a_list_for_a_parameter_gives_one_rule_per_value() -> None:
    rules = [{"kind": "sign", "step_size": [0.001, 0.01], "schedule": ["constant", "inverse"]}]
    spec = SimulationSpec.model_validate(SMALL | {"rules": rules})
    assert [rule.label for rule in spec.rules] == [
        "sign 0.001",
        "sign 0.001 schedule=inverse",
        "sign 0.01",
        "sign 0.01 schedule=inverse",
    ]


def test_a_target_is_one_value_although_it_is_a_list() -> None:
    rules = [{"kind": "sign", "target": [0.5, 0.25, 0.25]}]
    spec = SimulationSpec.model_validate(SMALL | {"num_experts": 3, "top_k": 1, "rules": rules})
    assert [rule.target for rule in spec.rules] == [(0.5, 0.25, 0.25)]


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_device_is_the_cpu_or_a_gpu_by_its_number(device: str) -> None:
    assert SimulationSpec.model_validate(SMALL | {"device": device}).device == device


def test_the_spec_survives_json() -> None:
    spec = SimulationSpec.model_validate(SMALL | {"rules": [{"kind": "sign", "step_size": [1, 2]}]})
    assert SimulationSpec.model_validate(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": [{"kind": "aux_loss"}]}, "'aux_loss' has no effect here"),
        ({"rules": [{"kind": "sign"}, {"kind": "sign"}]}, "'sign 0.001' is named twice"),
        ({"top_k": 64}, "top_k=64 leaves nothing to balance"),
        ({"rules": [{"kind": "sign", "target": [0.5, 0.5]}]}, "give one share per expert"),
        ({"rules": [{"kind": "sign", "stepsize": 1}]}, "unknown key"),
        ({"streams": {"odd": {"kind": "gaussian", "drifts": 1}}}, "unknown key"),
        ({"streams": {}}, "streams"),
        ({"rules": [{"kind": {"a": "b"}}]}, "kind={'a': 'b'} is not a balancing rule"),
        ({"first_seed": 2**63}, "first_seed=9223372036854775808"),
        ({"tokens": 10**400}, "tokens=1000"),
        ({"device": "banana"}, 'device="banana"'),
        ({"device": "cuda:"}, 'device="cuda:"'),
    ],
)
def test_bad_input_names_key_and_remedy(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "sim.yaml"
    path.write_text(str(SMALL | change))
    with pytest.raises(SpecError, match=message):
        load_simulation(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"gone\.yaml: No such file"):
        load_simulation(tmp_path / "gone.yaml")
