from __future__ import annotations

from pathlib import Path

import pytest

from evenload.pipeline.records import provenance
from evenload.pipeline.records.run import RunIdentity


def _run(attempt: int, commit: str) -> RunIdentity:
    return RunIdentity("d1", "sign", "s-1", attempt, {}, tags={"commit": commit, "device": "cpu"})


def test_every_attempt_records_its_code_and_device(tmp_path: Path) -> None:
    provenance.write(tmp_path, _run(2, "bbb"))
    provenance.write(tmp_path, _run(1, "aaa"))
    first, second = provenance.read(tmp_path)
    assert (first["commit"], first["attempt"]) == ("aaa", "1")
    assert (second["commit"], second["device"]) == ("bbb", "cpu")
    assert first["version.numpy"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_file_is_named_and_hides_no_other(content: bytes, tmp_path: Path) -> None:
    provenance.write(tmp_path, _run(1, "aaa"))
    provenance.write(tmp_path, _run(2, "bbb"))
    (tmp_path / "provenance" / "attempt-001.json").write_bytes(content)
    first, second = provenance.read(tmp_path)
    assert first == {"damaged": "attempt-001.json"}
    assert second["commit"] == "bbb"


def test_a_trial_before_its_first_attempt_has_no_provenance(tmp_path: Path) -> None:
    assert provenance.read(tmp_path) == []
