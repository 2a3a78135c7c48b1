"""The tokenizer of a trial as `AutoTokenizer` of transformers loads it, with the same ids."""

from __future__ import annotations

import json
from typing import NamedTuple

import tokenizers


class TextTokenizer(NamedTuple):
    tokenizer_json: str
    end_id: int  # ends a document


def tokenizer_files(tokenizer: TextTokenizer, max_positions: int) -> dict[str, str]:
    """File name -> content.

    Training added no special token but the end of a document, so the written tokenizer adds none
    by itself either.
    """
    content = json.loads(tokenizer.tokenizer_json) | {"post_processor": None}
    library = tokenizers.Tokenizer.from_str(json.dumps(content))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": library.id_to_token(tokenizer.end_id),
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
    }
    return {
        "tokenizer.json": str(library.to_str(pretty=True)),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }
