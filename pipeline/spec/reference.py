"""What can be written into a spec, as JSON Schema, and what a spec comes to.

All of it comes from the pydantic models, so that it cannot differ from what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.search_space import without
from evenload.pipeline.spec.simulation import ACTS_IN_TRAINING, SimulationSpec, load_simulation
from evenload.pipeline.spec.spec_file import mapping_of_yaml
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.spec.trial import TrialSpec, load_trial

Schema = dict[str, Any]

KINDS: dict[str, type[SweepSpec] | type[TrialSpec] | type[SimulationSpec]] = {
    "sweep": SweepSpec,
    "trial": TrialSpec,
    "simulation": SimulationSpec,
}


def schema(kind: str) -> Schema:
    """JSON Schema of the files that `load_sweep`, `load_trial` or `load_simulation` accept."""
    found = KINDS[kind].model_json_schema()
    if kind == "sweep":
        _describe_base(found)
    if kind == "simulation":
        _describe_rules(found)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def _describe_base(sweep: Schema) -> None:
    """`base` is a trial of which every key may be missing: the axes fill them in."""
    trial = TrialSpec.model_json_schema()
    definitions = trial.pop("$defs")
    for part, optional in (("ModelSpec", "anyOf"), ("TrainSpec", "required")):
        definitions[part].pop(optional)
    trial.pop("required")
    meaning = sweep["properties"]["base"]["description"]
    sweep["$defs"] = definitions | sweep["$defs"]
    sweep["properties"]["base"] = trial | {"description": meaning}


def _describe_rules(simulation: Schema) -> None:
    """Parameters may be lists, and rules that act through training have no place here."""
    rules, definitions = simulation["properties"]["rules"]["items"], simulation["$defs"]
    for kind in ACTS_IN_TRAINING:
        rules["oneOf"].remove({"$ref": rules["discriminator"]["mapping"].pop(kind)})
    for option in rules["oneOf"]:
        properties = definitions[option["$ref"].rpartition("/")[2]]["properties"]
        for key in properties.keys() - {"kind", "target"}:
            one = properties[key]
            kept = {name: one.pop(name) for name in ("default", "description")}
            properties[key] = {"anyOf": [one, {"type": "array", "items": one}], **kept}


def mappings_of(root: Schema, value: Schema) -> Iterator[tuple[str | None, Schema]]:
    """The mappings that a key can hold, each with its `kind` if it has one."""
    if "$ref" in value:
        inner = root["$defs"][value["$ref"].rpartition("/")[2]]
        yield inner["properties"].get("kind", {}).get("const"), inner
    for option in (*value.get("oneOf", ()), *value.get("anyOf", ())):
        yield from mappings_of(root, option)
    for items in ("items", "additionalProperties"):
        if isinstance(value.get(items), dict):
            yield from mappings_of(root, value[items])


def default_of(node: Schema, name: str) -> str | None:
    """The default of a mapping's key as one line of YAML; None if the key is required."""
    if name in node.get("required", ()) or "default" not in node["properties"][name]:
        return None
    return one_line(node["properties"][name]["default"])


def one_line(value: Any) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def meaning_of(node: Schema) -> str:
    """The first paragraph of a description."""
    return " ".join(node.get("description", "").split("\n\n")[0].split())


def resolved(path: Path) -> dict[str, Any]:
    """The spec in a file, of whatever kind, with presets and defaults filled in.

    `auto` stays: it is resolved where the trial runs.
    Raises:   SpecError: no valid spec
    """
    try:
        content = mapping_of_yaml(path.read_bytes(), str(path))
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; give the path of a YAML file") from None
    if "axes" in content:
        return _resolved_sweep(load_sweep(path))
    if "streams" in content:
        return load_simulation(path).model_dump(mode="json")
    return load_trial(path).model_dump(mode="json")


def _resolved_sweep(sweep: SweepSpec) -> dict[str, Any]:
    """With a whole trial as its base; as written if its trials would then be others.

    They would be where an axis replaces less than depends on it, e.g. `model.preset`.
    """
    written = sweep.model_dump(mode="json")
    trials = sweep.expand()
    base = without(trials[0].model_dump(mode="json"), [key.split(".") for key in sweep.axes])
    whole = written | {"base": base}
    try:
        is_same = SweepSpec.trusted(whole).expand() == trials
    except ValueError:
        is_same = False
    return whole if is_same else written
