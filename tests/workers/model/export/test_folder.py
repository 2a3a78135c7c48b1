from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.export.folder import check_folder, write_folder
from tests.workers.model.export.conftest import trained, trained_model
from tests.workers.model.export.test_weights import bias_of

Model = Callable[..., ModelSpec]


def test_only_a_new_or_empty_folder_is_written(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="is not empty; name a new folder"):
        check_folder(tmp_path)
    with pytest.raises(SpecError, match="is a file; name a new folder"):
        check_folder(tmp_path / "file")


def test_a_write_that_fails_leaves_nothing(
    spec_of: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of()

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SpecError, match="No space left on device; name a folder"):
        write_folder(
            tmp_path / "new", trained(spec), trained_model(spec).state_dict(), bias_of(spec), None
        )
    assert list(tmp_path.iterdir()) == []


def test_the_folder_describes_its_origin(spec_of: Model, tmp_path: Path) -> None:
    spec = spec_of()
    source = trained(spec, kind="expert_choice")
    write_folder(tmp_path, source, trained_model(spec).state_dict(), 0 * bias_of(spec), None)
    document = json.loads((tmp_path / "evenload.json").read_text())
    assert document["spec"] == source.spec.model_dump(mode="json")
    assert (document["digest"], document["step"]) == ("0123456789abcdef", 20)
    assert set(document["versions"]) == {"evenload", "torch", "safetensors"}
    card = (tmp_path / "README.md").read_text()
    assert "| Validation loss, per token: held-out loss | 1.2500 | nats per token |" in card
    assert "is even | – | × fair share |" in card
    assert "2 of its 3 layers have 8 experts, of which 2 process each token" in card
    assert "looked at the whole batch" in card
