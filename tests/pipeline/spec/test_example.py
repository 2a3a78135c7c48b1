"""The printed examples can be loaded, and they name every key."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from evenload.pipeline.spec.balancers import AuxLoss
from evenload.pipeline.spec.example import EXAMPLES, WIDTH, example
from evenload.pipeline.spec.reference import KINDS, mappings_of, schema


def keys(root: dict[str, Any], node: dict[str, Any]) -> set[str]:
    found = set(node["properties"])
    for value in node["properties"].values():
        for _, mapping in mappings_of(root, value):
            found |= keys(root, mapping)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_loads_as_the_spec_that_it_shows(kind: str) -> None:
    model = KINDS[kind]
    assert model.model_validate(yaml.safe_load(example(kind))) == model.model_validate(
        EXAMPLES[kind]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_names_every_key(kind: str) -> None:
    text = example(kind)
    missing = {key for key in keys(schema(kind), schema(kind)) if f"{key}:" not in text}
    if kind == "sweep":  # it refers to the example of a trial
        missing -= keys(schema("trial"), schema("trial"))
    if kind == "simulation":  # a loss acts through training
        missing -= AuxLoss.model_fields.keys()
    assert missing == set()


@pytest.mark.parametrize("kind", KINDS)
def test_no_line_is_too_long_to_read(kind: str) -> None:
    assert [line for line in example(kind).splitlines() if len(line) > WIDTH] == []


def test_an_uncommented_choice_replaces_the_one_that_is_shown() -> None:
    text = example("trial")
    assert (
        "#   {kind: aux_loss, target: null, aux: null, coefficient: 0.01, scope: local, groups:"
        in text
    )
    assert "#     coefficient: Factor on the auxiliary loss." in text
    assert text.count("    kind: bytes") == 1
