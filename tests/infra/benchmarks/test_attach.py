from __future__ import annotations

import json

import pytest

from infra.benchmarks import attach

pytest.importorskip("transformers")


@pytest.mark.slow
def test_every_arm_has_a_time_and_a_ratio_to_the_bare_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attach, "QUICK", attach.Shape(4, 2, 32, 2, 64))
    document = attach.run(quick=True)
    assert json.loads(json.dumps(document)) == document
    for arms in document["families"].values():
        assert list(arms) == [attach.BARE, *attach.RULES, attach.RECORDED]
        assert arms[attach.BARE]["ratio"] == 1
        assert all(arm["step_ms"] > 0 and arm["ratio"] > 0 for arm in arms.values())
    assert "self_tuned" in attach.table(document)
