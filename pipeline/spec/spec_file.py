"""The base of all specs: frozen, without unknown keys, read from YAML, identified by content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evenload.pipeline.errors import SpecError, first_message

Spec = TypeVar("Spec", bound=BaseModel)

# The bounds are those of the store's columns and of torch's and NumPy's seeds and sizes.
PositiveInt = Annotated[int, Field(gt=0, lt=2**63)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]

# PyYAML does not catch errors of its constructors: `!!bool maybe` raises KeyError, and 2024-99-99
# raises ValueError. Text that is not UTF-8 raises ValueError, too.
UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError)


class Frozen(BaseModel):
    """A spec cannot be changed and has no unknown keys. A string below a field describes it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def load(kind: type[Spec], path: Path) -> Spec:
    """The spec that a YAML file describes.  Raises: SpecError"""
    try:
        return kind.model_validate(read_mapping(path))
    except ValidationError as error:
        raise SpecError(f"{path}: {first_message(error)}") from None


def sha256(content: Any) -> str:
    """The hex digest of a JSON value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def mapping_of_yaml(content: bytes, where: str) -> dict[str, Any]:
    """The keys and values of a YAML document.

    Args:     where: the name of the document in error messages
    Raises:   SpecError: it is not YAML or not a mapping, or a key is given twice
    """
    try:
        tree = _UniqueKeys(content.decode()).get_single_data()
    except RecursionError:
        raise SpecError(f"{where}: not readable as YAML: nested too deeply; flatten it") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise SpecError(f"{where}: not readable as YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise SpecError(f"{where}: holds a {type(tree).__name__}; it must hold a mapping of keys")
    return tree


class _UniqueKeys(yaml.SafeLoader):
    """Refuses duplicate keys, of which PyYAML would keep the last."""

    # Checked before mappings are constructed, because merging `<<` adds keys by then.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is given twice; remove one",
                    problem_mark=key.start_mark,
                )
            seen.add(name)
        return node


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.  Raises: SpecError"""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; give the path of a YAML file") from None
    return mapping_of_yaml(content, str(path))
