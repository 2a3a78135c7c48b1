from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenload.pipeline.records.mirror import Mirror


def test_an_index_cannot_write_outside_of_its_trial(tmp_path: Path) -> None:
    store, trial_dir = tmp_path / "store", tmp_path / "home" / "trials" / "d1"
    folder = store / "trials" / "d1"
    folder.mkdir(parents=True)
    (folder.parent / "evil").write_bytes(b"evil")
    (folder / "index.json").write_text(json.dumps({"../evil": "0" * 64}))
    trial_dir.mkdir(parents=True)
    with pytest.raises(OSError, match=r"'\.\./evil', which is outside of the trial"):
        Mirror(store.as_uri()).pull("d1", trial_dir)
    assert not (trial_dir.parent / "evil").exists()
