"""The lines of the README run as they are printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from evenload.pipeline.records.scores import read_recording
from evenload.workers.simulation.advice import advise, estimate
from infra.research.tiny_models import tiny_model

pytest.importorskip("transformers")


def test_the_lines_of_the_readme_balance_a_hugging_face_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "workers/README.md").read_text()
    section = text.split("## Balance your own model\n", 1)[1]
    match = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert match is not None
    model: Any = tiny_model("qwen3_moe")
    token_BS = torch.randint(3, 64, (8, 32), generator=torch.Generator().manual_seed(0))
    names = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-4),
        "batches": [{"input_ids": token_BS, "labels": token_BS}] * 20,
    }
    monkeypatch.chdir(tmp_path)
    exec(match[1], names)
    printed = capsys.readouterr().out
    assert "model.layers.0.mlp.gate: top 2 of 8, bias evenload_bias (added)" in printed
    assert max(names["balance"].max_vio().values()) < 0.2  # type: ignore[attr-defined]
    assert (tmp_path / "checkpoint" / "evenload.pt").exists()


def test_the_lines_of_the_readme_record_scores_for_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[3] / "workers/README.md").read_text()
    section = text.split("### Advice for your own model\n", 1)[1]
    match = re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert match is not None
    model: Any = tiny_model("qwen3_moe")
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(3, 64, (2, 32), generator=generator) for _ in range(64)]
    names = {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
        "batches": [{"input_ids": token_BS, "labels": token_BS} for token_BS in batches],
    }
    monkeypatch.chdir(tmp_path)
    exec(match[1], names)
    recording = read_recording(Path("scores.npz"))
    assert recording.score_NLTE.shape[0] == 64
    advised = {each.rule["kind"] for each in advise(estimate(recording, 0), 200)}
    assert {"sign", "proportional", "self_tuned"} <= advised
