"""The base of all specs: frozen, without unknown keys, read from YAML, identified by content."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.spec.yaml_text import MAX_BYTES, mapping_of_yaml

Spec = TypeVar("Spec", bound=BaseModel)

# The bounds are those of the store's columns and of torch's and NumPy's seeds and sizes.
PositiveInt = Annotated[int, Field(gt=0, lt=2**63)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
# Numbers of training are float32, which ends at 3.4e38; products of two need room.
LARGEST = 1e18
PositiveFloat = Annotated[float, Field(gt=0, le=LARGEST)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=LARGEST)]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]


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


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.  Raises: SpecError"""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: {reason}; give the path of a YAML file") from None
    return mapping_of_yaml(content, str(path))
