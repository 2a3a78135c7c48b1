"""JSON Schema of specs, and specs with their defaults filled in.

Both come from the pydantic models, so they agree with what is accepted.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evenload.pipeline.spec.search_space import without
from evenload.pipeline.spec.simulation import ACTS_IN_TRAINING, SimulationSpec, load_simulation
from evenload.pipeline.spec.spec_file import read_mapping
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.spec.trial import TrialSpec, load_trial
from evenload.pipeline.spec.yaml_text import yaml_of

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
    """Describes `base` as a trial whose keys are all optional, because axes may fill them in."""
    trial = TrialSpec.model_json_schema()
    definitions = trial.pop("$defs")
    for part, optional in (("ModelSpec", "anyOf"), ("TrainSpec", "required")):
        definitions[part].pop(optional)
    trial.pop("required")
    meaning = sweep["properties"]["base"]["description"]
    sweep["$defs"] = definitions | sweep["$defs"]
    sweep["properties"]["base"] = trial | {"description": meaning}


def _describe_rules(simulation: Schema) -> None:
    """Allows lists as parameters and removes the rules that act through training."""
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
    """The mappings that a key accepts, each with its `kind` if it has one."""
    if "$ref" in value:
        inner = root["$defs"][value["$ref"].rpartition("/")[2]]
        yield inner["properties"].get("kind", {}).get("const"), inner
    for option in (*value.get("oneOf", ()), *value.get("anyOf", ())):
        yield from mappings_of(root, option)
    for items in ("items", "additionalProperties"):
        if isinstance(value.get(items), dict):
            yield from mappings_of(root, value[items])


def default_of(node: Schema, name: str) -> str | None:
    """The default of a key as one line of YAML; None if the key is required."""
    if name in node.get("required", ()) or "default" not in node["properties"][name]:
        return None
    return one_line(node["properties"][name]["default"])


def one_line(value: Any) -> str:
    """The value as one line of YAML."""
    return yaml_of(value, one_line=True).removesuffix("\n")


def meaning_of(node: Schema) -> str:
    """The first paragraph of a description."""
    return " ".join(node.get("description", "").split("\n\n")[0].split())


def resolved(path: Path) -> dict[str, Any]:
    """The spec of any kind in a file, with presets and defaults filled in.

    `auto` stays, because it is resolved on the machine where the trial runs.

    Raises:   SpecError: the file holds no valid spec
    """
    content = read_mapping(path)
    if "axes" in content:
        return _resolved_sweep(load_sweep(path))
    if "streams" in content:
        return load_simulation(path).model_dump(mode="json")
    return load_trial(path).model_dump(mode="json")


def _resolved_sweep(sweep: SweepSpec) -> dict[str, Any]:
    """The sweep with a whole trial as its base, or as written if its trials would then differ.

    They would differ if more depends on an axis than it replaces, e.g. on `model.preset`.
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
