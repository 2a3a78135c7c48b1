from __future__ import annotations

from pathlib import Path

import pytest

from evenload.pipeline.errors import SpecError, StoreUnavailable
from evenload.pipeline.store.sweep_store import SweepStore


def test_opening_a_store_neither_connects_nor_creates_files(tmp_path: Path) -> None:
    SweepStore(f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}")
    SweepStore("postgresql+psycopg://user:secret@192.0.2.1:1/none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/x", "sqlite://", "oracle:///x"])
def test_a_url_of_an_unknown_database_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(SpecError, match="use sqlite:///<path> or postgresql"):
        SweepStore(url)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    nowhere = f"postgresql+psycopg://me:secret@/db?host={tmp_path}"
    with pytest.raises(StoreUnavailable, match="check the database") as caught:
        SweepStore(nowhere).sweeps()
    assert "secret" not in str(caught.value)
