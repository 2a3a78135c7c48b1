"""Held-out text is scored as the model would serve it: without tokens that are yet to come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.data.corpus import prepare
from evenload.workers.data.shards import even_windows
from evenload.workers.model.contract import next_token_loss
from evenload.workers.training.scoring import scorer_of
from evenload.workers.training.setup import assemble

SEEING_THE_BATCH = [kind for kind, rule in BALANCERS.items() if rule.leaks_future]


@pytest.mark.parametrize("kind", [*SEEING_THE_BATCH, "sign"])
def test_a_rule_that_sees_the_batch_is_scored_by_plain_top_k(
    make_spec: Callable[..., TrialSpec], tmp_path: Path, kind: str
) -> None:
    spec = make_spec(balancer={"kind": kind}, model={"init_std": 0.2})
    assembly = assemble(spec)
    bias_LE = 0.1 * torch.randn(2, 8) if kind == "sign" else torch.zeros(2, 8)
    window_NS = even_windows(prepare(spec.data, tmp_path).validation, 32, 256)
    scores = scorer_of(assembly, bias_LE, 4).score(window_NS)
    token_NS = torch.from_numpy(window_NS)
    with torch.no_grad():
        plain = assembly.trainee.model.forward(token_NS[:, :-1], bias_LE, torch.add, "tokens")
        loss = next_token_loss(plain.logits_BSV, token_NS[:, 1:])
    count_LE = torch.stack([routed.count_E for routed in plain.routed])
    assert scores.count_LE.tolist() == count_LE.tolist()
    assert scores.loss == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize("kind", SEEING_THE_BATCH)
def test_what_comes_later_in_the_batch_changes_no_score(
    make_spec: Callable[..., TrialSpec], tmp_path: Path, kind: str
) -> None:
    spec = make_spec(balancer={"kind": kind}, model={"init_std": 0.2})
    window_NS = even_windows(prepare(spec.data, tmp_path).validation, 32, 256)
    scorer = scorer_of(assemble(spec), torch.zeros(2, 8), len(window_NS))
    together = scorer.score(window_NS)
    alone = [scorer.score(window_S[None]) for window_S in window_NS]
    assert together.count_LE.tolist() == sum(score.count_LE for score in alone).tolist()
    assert together.loss == pytest.approx(np.mean([score.loss for score in alone]), rel=1e-5)
