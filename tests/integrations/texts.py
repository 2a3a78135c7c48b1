"""Texts of made-up words, and a tokenizer that knows them. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from infra.research.tiny_models import tiny_model

SPECIAL = ("<pad>", "<s>", "</s>")
WORDS = tuple(f"w{number}" for number in range(64 - len(SPECIAL)))
LAYERS, TOP_K = 2, 2


def text(start: int, length: int) -> str:
    return " ".join(WORDS[(start + place) % len(WORDS)] for place in range(length))


def tokenizer() -> Any:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    ids = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    words = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def tiny(kind: str = "qwen3_moe") -> nn.Module:
    return tiny_model(kind, num_hidden_layers=LAYERS)


def stored(folder: Path, kind: str = "qwen3_moe") -> nn.Module:
    """A model that knows its folder, from which trainers load the reference."""
    import transformers

    tiny(kind).save_pretrained(folder)
    model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(folder)
    return model.train()
