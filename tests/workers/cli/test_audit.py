"""`evenload audit` on a real sweep whose data changes afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.ray
@pytest.mark.slow
def test_findings_of_a_trained_sweep(evenload: Any, sweep: Any, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        words = " ".join(f"{number}x{place}" for place in range(300))
        (folder / f"{number}.txt").write_text(words)
    tree = sweep(axes={"balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}]})
    data = {"kind": "files", "glob": str(folder / "*.txt"), "validation_share": 0.2}
    tree["base"] |= {"data": data, "model": tree["base"]["model"] | {"vocab_size": 256}}
    ended = evenload("sweep", "run", evenload.write("sweep.yaml", tree), "--json", "--slots", "2")
    assert ended.code == 0, ended.err
    sweep_id = ended.document["sweep_id"]
    (folder / "0.txt").write_text("other words")
    found = evenload("audit", sweep_id, "--json")
    assert found.code == 0, found.err
    names = {finding["name"] for finding in found.document["findings"]}
    assert {"one seed", "corpus changed since"} <= names
    assert "2 trials" in next(
        one["evidence"] for one in found.document["findings"] if one["name"].startswith("corpus")
    )


def test_an_unknown_sweep_is_named(evenload: Any) -> None:
    unknown = evenload("audit", "nope")
    assert unknown.code == 2
    assert "no store here" in unknown.err
