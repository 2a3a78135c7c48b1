"""`AutoTokenizer` gives the ids that the trial was trained on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import AutoTokenizer

from evenload.pipeline.spec.data import BpeTokenizer, BytesTokenizer, FileTokenizer
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.data.tokenizer import Encoder, make_encoder
from evenload.workers.model.export.tokenizer_files import TextTokenizer
from tests.workers.model.export.conftest import Write, trained_model
from tests.workers.model.export.test_weights import bias_of

STDLIB = Path(os.__file__).parent
REAL = [(STDLIB / name).read_text(encoding="utf-8") for name in ("shlex.py", "this.py", "uuid.py")]
ODD = "Hellö\r\n\ttäst  漢字 <|end|> <|endoftext|> \x7f\x01 a\0b \U0001f600  end  "


@pytest.fixture
def exported(spec_of: Callable[..., ModelSpec], write: Write) -> Callable[..., Any]:
    def load(encoder: Encoder, end_id: int = 0) -> Any:
        spec = spec_of(vocab_size=max(encoder.vocab_size, 64))
        tokenizer = TextTokenizer(encoder.to_json(), end_id)
        return AutoTokenizer.from_pretrained(
            write(trained_model(spec), spec, bias_of(spec), tokenizer)
        )

    return load


@pytest.mark.parametrize("spec", [BytesTokenizer(), BpeTokenizer(vocab_size=400)], ids=str)
def test_ids_are_those_of_training_and_text_comes_back(
    exported: Callable[..., Any], spec: BytesTokenizer | BpeTokenizer
) -> None:
    encoder = make_encoder(spec, REAL[:2])
    loaded = exported(encoder)
    assert len(loaded) == encoder.vocab_size
    assert loaded.model_max_length == 64
    for text, own in zip([*REAL, ODD], encoder.encode([*REAL, ODD]), strict=True):
        ids = loaded(text, verbose=False)["input_ids"]
        assert ids == own[:-1].tolist()
        assert loaded.decode(ids) == text
    assert loaded.eos_token_id == encoder.encode([""])[0].item() == 0
    assert loaded.decode([0, 65, 0], skip_special_tokens=True) == loaded.decode([65])


def test_a_tokenizer_file_loses_its_added_tokens_and_keeps_its_end(
    exported: Callable[..., Any], tmp_path: Path
) -> None:
    library = tokenizers.Tokenizer.from_str(
        make_encoder(BpeTokenizer(vocab_size=300), REAL).to_json()
    )
    library.add_special_tokens(["<s>", "</s>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", library.token_to_id("<s>"))]
    )
    library.save(str(tmp_path / "own.json"))
    encoder = make_encoder(FileTokenizer(path=tmp_path / "own.json"), [])
    loaded = exported(encoder, end_id=301)
    assert library.encode("abc").ids[0] == 300
    assert loaded("abc")["input_ids"] == encoder.encode(["abc"])[0][:-1].tolist()
    assert (loaded.eos_token, loaded.eos_token_id) == ("</s>", 301)
