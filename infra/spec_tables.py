"""Writes the reference of all keys of a spec as markdown, from the pydantic models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from result_tables import table

from evenload.pipeline.figures.cost import CostSettings
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.reference import (
    Schema,
    default_of,
    mappings_of,
    meaning_of,
    schema,
)

HUGE = 2**31 - 1  # larger bounds only come from the width of a column and are not shown
SIGNS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
TITLES = {
    "trial": "Keys of a trial",
    "sweep": "Keys of a sweep",
    "simulation": "Keys of a simulation",
}


def reference() -> str:
    """Every key with its type, default and meaning. A mapping is described only once."""
    parts: list[str] = []
    seen: set[str] = set()
    for kind, title in TITLES.items():
        root = schema(kind)
        parts += [f"### {title}", *_mapping(root, root, "", None, seen)]
    return "\n\n".join(parts)


def rules() -> str:
    """One row per rule."""
    rows = [
        (
            f"`{kind}`",
            f"{rule.summary}{' (control)' if rule.control else ''}",
            ", ".join(f"{name} {default}" for name, (_, default) in rule.params.items()) or "none",
        )
        for kind, rule in BALANCERS.items()
    ]
    return table(("rule", "what it does", "parameters and defaults"), rows)


def _mapping(
    root: Schema, node: Schema, path: str, kind: str | None, seen: set[str]
) -> Iterator[str]:
    if node["title"] in seen:
        return
    seen.add(node["title"])
    if path:
        yield f"**`{path}`{f' with `kind: {kind}`' if kind else ''}**: {meaning_of(node)}"
    rows = [
        (f"`{name}`", worded(root, value), _default(node, name), _meaning(root, value))
        for name, value in node["properties"].items()
        if name != "kind"
    ]
    if rows:
        yield table(("key", "type", "default", "meaning"), rows)
    for name, value in node["properties"].items():
        for inner_kind, inner in mappings_of(root, value):
            yield from _mapping(root, inner, f"{path}.{name}".lstrip("."), inner_kind, seen)


def settings() -> str:
    """One row per environment variable."""
    rows = []
    for model in (Settings, CostSettings):
        root = model.model_json_schema()
        prefix = model.model_config["env_prefix"]
        rows += [
            (
                f"`{prefix}{name.upper()}`",
                worded(root, value),
                _default(root, name),
                meaning_of(value),
            )
            for name, value in root["properties"].items()
        ]
    return table(("variable", "type", "default", "meaning"), rows)


def _default(node: Schema, name: str) -> str:
    """The default of a key; empty for a mapping, whose table has its defaults."""
    if name in node.get("required", ()):
        return "required"
    if "$ref" in node["properties"][name]:
        return ""
    default = default_of(node, name)
    return "from `preset`" if default is None else f"`{default}`"


def _meaning(root: Schema, value: Schema) -> str:
    inner = next(iter(mappings_of(root, value)), (None, {}))[1]
    return meaning_of(value) or meaning_of(inner)


def worded(root: Schema, value: Schema) -> str:
    """The type of a value in words, with its bounds."""
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if inner := list(mappings_of(root, value)):
        each = {"array": "list of ", "object": "names with "}.get(value.get("type", ""), "")
        null = " or null" if {"type": "null"} in value.get("anyOf", ()) else ""
        return f"{each}{'mapping with `kind`' if inner[0][0] else 'mapping'}{null}"
    if "anyOf" in value:
        return " or ".join(worded(root, option) for option in value["anyOf"])
    return _plain(root, value)


def _plain(root: Schema, value: Schema) -> str:
    match value.get("type"):
        case "array":
            items: Any = value.get("items")
            return f"list of {worded(root, items)}" if items else "list"
        case "object":
            return "mapping"
        case "string":
            return "path" if value.get("format") == "path" else "text"
        case "boolean":
            return "true or false"
        case number:
            return f"{number} {_bounds(value)}".strip()


def _bounds(value: Schema) -> str:
    names = [name for name in SIGNS if abs(value.get(name, HUGE)) < HUGE]
    if "minimum" in names and "exclusiveMinimum" in names:
        names.remove("exclusiveMinimum")
    return ", ".join(f"{SIGNS[name]} {value[name]:g}" for name in names)
