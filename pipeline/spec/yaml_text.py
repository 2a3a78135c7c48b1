"""YAML 1.2 in and out: what is read becomes plain JSON values, and never more than was written."""

import re
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent

from evenload.pipeline.errors import SpecError, shown

MAX_BYTES = 2**20
MAX_NODES = 10_000  # keys and values; a reader takes about a second for them
MAX_DEPTH = 100
PLAIN = (str, int, float, bool, type(None))
NAMES = {list: "a list", str: "a text", type(None): "nothing"}

# Constructors raise these: `!!bool maybe` a KeyError, and bytes that are no UTF-8 a ValueError.
UNREADABLE = (YAMLError, ValueError, LookupError, AttributeError, TypeError)


def mapping_of_yaml(content: bytes, where: str) -> dict[str, Any]:
    """The keys and values of a YAML document: mappings with text as keys, lists, and scalars.

    Args:     where: the name of the document in error messages
    Raises:   SpecError: it is not YAML, not a mapping or too long, gives a key twice or repeats
              parts by aliases, or holds other values
    """
    if len(content) > MAX_BYTES:
        raise SpecError(f"{where}: has more than {MAX_BYTES:,} bytes; a file of keys is shorter")
    reader = YAML(typ="safe", pure=True)
    reader.Composer, reader.Constructor = _Bounded, _Plain
    try:
        tree = reader.load(content.decode())
        if not isinstance(tree, dict):
            found = NAMES.get(type(tree), "a single value")
            raise SpecError(f"holds {found}; it must hold a mapping of keys")
        _check_plain(tree)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    except UNREADABLE as error:
        raise SpecError(f"{where}: not readable as YAML: {_reason(error)}") from None
    return tree


def yaml_of(value: Any, one_line: bool = False) -> str:
    """The value as YAML that readers of version 1.1 and 1.2 understand alike."""
    width, style = (10**6, True) if one_line else (98, False)
    return yaml.dump(
        value, Dumper=_Quoting, sort_keys=False, width=width, default_flow_style=style
    ).removesuffix("\n...\n" if one_line else "")


class _Bounded(Composer):
    """Counts nodes, and refuses what makes a short document long."""

    num_nodes = depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            raise SpecError(f"line {line}: *{event.anchor} repeats a part; write the part out")
        if getattr(event, "value", None) == "<<" and event.implicit[0]:
            raise SpecError(f"line {line}: << merges a part; write its keys out")
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise SpecError(f"line {line}: more than {MAX_NODES:,} keys and values; use fewer")
        if self.depth > MAX_DEPTH:
            raise SpecError(f"line {line}: nested too deeply; flatten it")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Plain(SafeConstructor):
    """Dates stay text, because no key takes a date."""


_Plain.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


class _Quoting(yaml.SafeDumper):
    """Also quotes texts that only YAML 1.2 takes for numbers, such as the digest 123456e78901."""


_NUMBER = re.compile(r"[-+]?(\d+\.?|\.\d+)([eE][-+]?\d+)?$|0o[0-7]+$")
_Quoting.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def _check_plain(value: Any, path: str = "") -> None:
    """Raises: SpecError: the value is none that JSON has"""
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(place), item) for place, item in enumerate(value)]
    elif not isinstance(value, PLAIN):
        raise SpecError(f"{path}: a YAML {type(value).__name__} is no value here; write it as text")
    for key, item in items:
        if not isinstance(key, str):
            raise SpecError(f"{path}: the key {shown(key)} is no text; write it in quotes")
        _check_plain(item, f"{path}.{key}" if path else key)


def _reason(error: Exception) -> str:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())[:200]
