from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.data import Files, FileTokenizer, HuggingFace, PythonStdlib, Shards
from evenload.pipeline.spec.permitted_paths import check_paths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of texts beside a private folder."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "a.txt").write_text("a")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key.txt").write_text("k")
    return tmp_path / "data"


def test_paths_below_the_root_may_be_read(root: Path) -> None:
    for pattern in ("**/*.txt", "sub/a.txt", "sub/../sub/*.txt", "nothing/*.md"):
        check_paths(Files(glob=str(root / pattern)), root)
    check_paths(PythonStdlib(), root)


@pytest.mark.parametrize(
    "pattern", ["/etc/passwd", "../private/*.txt", "sub/../../private/key.txt"]
)
def test_paths_out_of_the_root_are_refused(
    root: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(SpecError, match=r"leads out of .*EVENLOAD_DATA_ROOT"):
        check_paths(Files(glob=pattern), root)
    check_paths(Files(glob=pattern), None)


def test_links_are_followed(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "private")
    with pytest.raises(SpecError, match="leads out"):
        check_paths(Files(glob=str(root / "**" / "*.txt")), root)


@pytest.mark.parametrize(
    "data",
    [
        {"train_glob": "{out}", "validation_glob": "{ok}"},
        {"train_glob": "{ok}", "validation_glob": "{out}"},
    ],
)
def test_every_path_of_a_spec_counts(root: Path, data: dict[str, Any]) -> None:
    names = {"ok": str(root / "*.bin"), "out": str(root.parent / "private" / "*.bin")}
    with pytest.raises(SpecError, match="leads out"):
        check_paths(Shards(**{key: text.format(**names) for key, text in data.items()}), root)
    outside = FileTokenizer(path=root.parent / "private" / "tokenizer.json")
    with pytest.raises(SpecError, match=r"data\.tokenizer\.path"):
        check_paths(PythonStdlib(tokenizer=outside), root)


def test_a_folder_cannot_be_read_as_a_name_of_the_hub(root: Path) -> None:
    check_paths(HuggingFace(name="wikitext"), root)
    with pytest.raises(SpecError, match=r"data\.name"):
        check_paths(HuggingFace(name=str(root.parent / "private")), root)


@pytest.mark.parametrize("digest", ["../../etc", "a/b", "..", "", "x\0y", "/etc"])
def test_the_folder_of_a_trial_needs_a_digest(root: Path, digest: str) -> None:
    with pytest.raises(SpecError, match="is not a digest"):
        Settings(home=root).trial_dir(digest)
