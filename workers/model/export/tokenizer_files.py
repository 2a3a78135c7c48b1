"""Writes the tokenizer of a trial for transformers' `AutoTokenizer`, with the same ids."""

import json
from typing import NamedTuple

import tokenizers


class TextTokenizer(NamedTuple):
    tokenizer_json: str
    end_id: int  # the token that ends a document


def tokenizer_files(tokenizer: TextTokenizer, max_positions: int) -> dict[str, str]:
    """The content of each file by its name.

    The written tokenizer adds no special tokens, because training added only ends of documents.
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
