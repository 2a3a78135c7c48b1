"""What every spec is: frozen, no unknown keys, read from a YAML file, identified by its content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.errors import SpecError, first_message

Spec = TypeVar("Spec", bound=BaseModel)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def load(kind: type[Spec], path: Path) -> Spec:
    """The spec that a YAML file describes.  Raises: SpecError"""
    try:
        return kind.model_validate(_read_yaml(path))
    except ValidationError as error:
        raise SpecError(f"{path}: {first_message(error)}") from None


def sha256(content: Any) -> str:
    """Hex digest of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(content, dict):
        raise SpecError(f"{path}: holds a {type(content).__name__}; it must hold a mapping of keys")
    return content
