from __future__ import annotations

import json

import pytest
import torch

from infra.benchmarks import routing


def test_the_document_has_every_arm_and_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing, "QUICK_SHAPES", (routing.Shape(16, 8, 2),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    document = routing.run(quick=True)
    assert json.loads(json.dumps(document)) == document
    arms = document["shapes"][0]["arms"]
    assert list(arms) == ["evenload torch", routing.COPY]
    assert arms["evenload torch"]["called"]["median_us"] > 0
    assert "evenload triton" in document["missing"]
    assert "evenload torch" in routing.table(document)
