"""Writes a commented example of every kind of spec from its model. The examples can be loaded."""

import textwrap
from collections.abc import Iterator
from typing import Any

from evenload.pipeline.spec.reference import (
    KINDS,
    Schema,
    default_of,
    mappings_of,
    meaning_of,
    one_line,
    schema,
)

WIDTH = 100
TRIAL: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "data": {"kind": "python_stdlib"},
    "balancer": {"kind": "sign", "step_size": 0.01},
    "train": {"steps": 100, "batch_sequences": 16, "seq_len": 128, "warmup_steps": 10},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "trial": TRIAL,
    "sweep": {
        "name": "example",
        "base": TRIAL,
        "axes": {"model.num_experts": [16, 32], "balancer.step_size": [0.001, 0.003, 0.01]},
        "confirm": {"seeds": [11, 12, 13]},
    },
    "simulation": {
        "streams": {"still": {"kind": "gaussian"}, "jumping": {"kind": "gaussian", "jump_at": 0.5}},
        "rules": [{"kind": "none"}, {"kind": "sign", "step_size": [0.001, 0.01]}],
    },
}
AS_WRITTEN = ("base", "axes", "rules")  # keys whose values are shown without defaults


def example(kind: str) -> str:
    """YAML with every key of this kind, its default or an example, and its meaning."""
    root = schema(kind)
    written = EXAMPLES[kind]
    values = KINDS[kind].model_validate(written).model_dump(mode="json")
    values |= {key: value for key, value in written.items() if key in AS_WRITTEN}
    title = f"# {meaning_of(root)}"
    return "\n".join([title, *_mapping(root, root, values, "")]) + "\n"


def _mapping(root: Schema, node: Schema, values: dict[str, Any], indent: str) -> Iterator[str]:
    for name in sorted(node["properties"], key=lambda name: name != "kind"):
        described = node["properties"][name]
        if name in values:
            yield from _entry(root, name, described, values[name], indent)
        else:  # `preset` and the `kind` of evenload's own model, which are not stored in specs
            shown = described.get("const") or described["enum"][0]
            yield from _with_meaning(f"{indent}# {name}: {shown}", described, indent)


def _entry(root: Schema, name: str, described: Schema, value: Any, indent: str) -> Iterator[str]:
    options = list(mappings_of(root, described))
    if not isinstance(value, dict) or not options:
        yield from _value(name, described, value, indent)
        yield from _other_choices(options, set(), indent)
    elif described.get("type") == "object":  # mappings whose names the user chooses
        yield from _with_meaning(f"{indent}{name}:", described, indent)
        for key, inner in value.items():
            yield f"{indent}  {one_line(key)}:"
            yield from _mapping(root, _chosen(options, inner), inner, f"{indent}    ")
        yield from _other_choices(options, {inner["kind"] for inner in value.values()}, indent)
    else:
        chosen = _chosen(options, value)
        yield from _with_meaning(f"{indent}{name}:", {**chosen, **described}, indent)
        yield from _mapping(root, chosen, value, f"{indent}  ")
        yield from _other_choices(options, {_kind_of(chosen, value)}, indent)


def _value(name: str, described: Schema, value: Any, indent: str) -> Iterator[str]:
    if name not in AS_WRITTEN:
        yield from _with_meaning(f"{indent}{name}: {one_line(value)}", described, indent)
        return
    yield from _with_meaning(f"{indent}{name}:", described, indent)
    for item in value:
        inner = f"{one_line(item)}: {one_line(value[item])}" if isinstance(value, dict) else None
        yield f"{indent}  {inner or f'- {one_line(item)}'}"
    if name == "base":
        yield f"{indent}  # For all keys of a trial: evenload spec example trial"


def _chosen(options: list[tuple[str | None, Schema]], value: dict[str, Any]) -> Schema:
    return next(node for kind, node in options if kind == _kind_of(node, value))


def _kind_of(node: Schema, value: dict[str, Any]) -> str | None:
    """The kind of a value; where none is stored, that of the mapping that describes it."""
    kind: str | None = value.get("kind", node["properties"].get("kind", {}).get("const"))
    return kind


def _other_choices(
    options: list[tuple[str | None, Schema]], shown: set[str | None], indent: str
) -> Iterator[str]:
    """The kinds that are not shown, as comments. A key is explained only once."""
    others = [(kind, node) for kind, node in options if kind not in shown]
    explained = {key for kind, node in options if kind in shown for key in node["properties"]}
    if others:
        yield f"{indent}  # Other choices:"
    for kind, node in others:
        defaults = {key: default_of(node, key) or "..." for key in node["properties"]}
        keys = ", ".join(f"{key}: {value}" for key, value in defaults.items() if key != "kind")
        yield from _comment(f"{{kind: {kind}, {keys}}}".replace(", }", "}"), f"{indent}  #   ")
        yield from _comment(meaning_of(node), f"{indent}  #     ")
        for key in [key for key in defaults if key not in explained and key != "kind"]:
            meaning = meaning_of(node["properties"][key])
            yield from _comment(f"{key}: {meaning}", f"{indent}  #     ")
            explained.add(key)


def _with_meaning(line: str, described: Schema, indent: str) -> Iterator[str]:
    """The line with its meaning as a comment behind it, or above it if it would be too long."""
    meaning = meaning_of(described)
    if meaning and len(line) + len(meaning) + 4 > WIDTH:
        yield from _comment(meaning, f"{indent}# ")
        yield line
    else:
        yield f"{line}  # {meaning}" if meaning else line


def _comment(text: str, lead: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=lead, subsequent_indent=lead)
