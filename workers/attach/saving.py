"""What of a session is kept, and where it is found again.

A rule's memory is part of its state: with the bias alone, a run that goes on takes other steps.
Everything is stored layer by layer, so that layers may lie on other devices when it is read.

Letters: L layers, E experts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evenload.workers.attach.bias import ADDED
from evenload.workers.attach.errors import AttachError

FILE = "evenload.pt"  # beside the weights
FORMAT = 1

# What wrappers put into the names of modules.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.", "module.")


def plain(name: str) -> str:
    """A module's name without what DDP, FSDP, compile and checkpoint wrappers add to it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name.removeprefix("base_model.model.")


def rows_of(state: Any, num_layers: int) -> list[dict[str, Tensor]]:
    """A stacked rule state by layer. Scalars, such as counts of updates, go to every layer."""
    fields = state._asdict().items()
    return [
        {name: (value[row] if value.dim() else value).clone() for name, value in fields}
        for row in range(num_layers)
    ]


def stacked(like: Any, rows: Sequence[Mapping[str, Tensor]]) -> Any:
    """Takes back `rows_of`.  Raises: AttachError: other fields or sizes"""
    fields = {}
    for name, value in like._asdict().items():
        parts = [row[name] for row in rows if name in row]
        shape = value.shape[1:] if value.dim() else value.shape
        if len(parts) < len(rows) or any(part.shape != shape for part in parts):
            raise AttachError(
                f"the saved state does not fit: {name!r} must have the shape {tuple(shape)} by "
                "layer: was it saved by another version or for other experts?"
            )
        joined = torch.stack(parts) if value.dim() else parts[0]
        fields[name] = joined.to(value.device, value.dtype)
    return type(like)(**fields)


def write(state: dict[str, Any], folder: str | Path) -> Path:
    path = Path(folder) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def read(place: str | Path) -> dict[str, Any]:
    """A session's state from its file, or from the folder that holds it.

    A folder of weights that were saved while attached, without a session's file, gives the added
    biases alone.
    Raises:   AttachError: nothing of ours there
    """
    place = Path(place)
    path = place / FILE if place.is_dir() else place
    if path.is_file():
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise AttachError(f"{path} was not written by this version of evenload")
        return state
    biases = _added_biases(place)
    if not biases:
        raise AttachError(f"{place} holds neither {FILE} nor weights with an {ADDED!r}")
    return {"format": FORMAT, "biases": biases}


def _added_biases(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        return {}
    from safetensors import safe_open

    biases = {}
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - no mapping
                if key.endswith(f".{ADDED}"):
                    biases[key.removesuffix(f".{ADDED}")] = weights.get_tensor(key)
    return biases


def matched(names: Sequence[str], saved: Mapping[str, Any]) -> list[Any]:
    """What was saved for each layer, by its name without wrappers.

    Raises:   AttachError: a layer has none
    """
    by_name = {plain(name): value for name, value in saved.items()}
    missing = [name for name in names if plain(name) not in by_name]
    if missing:
        raise AttachError(
            f"nothing was saved for {missing[0]}; saved are {', '.join(by_name) or 'no layers'}"
        )
    return [by_name[plain(name)] for name in names]
