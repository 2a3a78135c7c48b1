"""Writes the folder of an export, which is never incomplete."""

import json
import shutil
import tempfile
from pathlib import Path

from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.workers.model.export.model_card import Trained, evenload_json, model_card
from evenload.workers.model.export.model_types import ModelType, model_type_of
from evenload.workers.model.export.tokenizer_files import TextTokenizer, tokenizer_files
from evenload.workers.model.export.weights import Weights, named_weights


def check_folder(folder: Path) -> None:
    """Raises: SpecError: the folder is not empty, or it is a file"""
    if folder.is_dir() and any(folder.iterdir()):
        raise SpecError(f"{folder} is not empty; name a new folder")
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; name a new folder")


def write_folder(
    folder: Path,
    trained: Trained,
    weights: Weights,
    bias_LE: Tensor,
    tokenizer: TextTokenizer | None,
) -> ModelType:
    """Writes all files for `from_pretrained`, and a description of the model's origin.

    Args:     weights, bias_LE: the trained model and the frozen bias that routes it
    Raises:   SpecError: no type in transformers computes this model, or the folder cannot be made
    """
    spec, seq_len = trained.spec.own_model, trained.spec.train.seq_len
    kind = model_type_of(spec, bias_LE, seq_len)
    texts = {
        "config.json": _json(kind.config | _end(tokenizer)),
        "generation_config.json": _json(_end(tokenizer)),
        "README.md": model_card(trained, kind.name, tokenizer is not None),
        "evenload.json": evenload_json(trained, kind.name),
        **(tokenizer_files(tokenizer, seq_len) if tokenizer else {}),
    }
    try:
        _write(folder, texts, named_weights(spec, kind, weights, bias_LE))
    except OSError as error:
        raise SpecError(f"{folder}: {error.strerror}; name a folder that can be written") from None
    return kind


def _write(folder: Path, texts: dict[str, str], named: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".exporting-", dir=folder.parent))
    try:
        staging.chmod(0o755)
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8")
        # Not `save_file`: its errors are not OSError, and other users cannot read its file.
        (staging / "model.safetensors").write_bytes(save(named, metadata={"format": "pt"}))
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # after the rename it does not exist


def _end(tokenizer: TextTokenizer | None) -> dict[str, int]:
    return {"eos_token_id": tokenizer.end_id} if tokenizer else {}


def _json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"
