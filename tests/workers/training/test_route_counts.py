from __future__ import annotations

import itertools

import numpy as np
import torch

from evenload.workers.model.contract import Routed
from evenload.workers.training.route_counts import RouteCounter

LAYERS, EXPERTS, TOP_K, TOKENS = 3, 6, 2, 50


def decisions(seed: int) -> list[Routed]:
    generator = torch.Generator().manual_seed(seed)
    routed = []
    for _ in range(LAYERS):
        score_TE = torch.rand(TOKENS, EXPERTS, generator=generator)
        expert_TK = score_TE.topk(TOP_K).indices
        routed.append(Routed(score_TE, expert_TK, score_TE.gather(1, expert_TK), torch.zeros(())))
    return routed


def test_pairs_in_a_layer_and_across_layers_are_counted_token_by_token() -> None:
    counter = RouteCounter(LAYERS, EXPERTS, torch.device("cpu"))
    together_LEE = np.zeros((LAYERS, EXPERTS, EXPERTS), np.int64)
    onward_LEE = np.zeros((LAYERS - 1, EXPERTS, EXPERTS), np.int64)
    for seed in (0, 1):
        batch = decisions(seed)
        counter(batch)
        for layer, token in itertools.product(range(LAYERS), range(TOKENS)):
            chosen = batch[layer].expert_TK[token].tolist()
            for pair in itertools.product(chosen, chosen):
                together_LEE[layer][pair] += 1
            if layer + 1 < LAYERS:
                following = batch[layer + 1].expert_TK[token].tolist()
                for pair in itertools.product(chosen, following):
                    onward_LEE[layer][pair] += 1
    routes = counter.routes()
    np.testing.assert_array_equal(routes.together_LEE, together_LEE)
    np.testing.assert_array_equal(routes.onward_LEE, onward_LEE)
    assert routes.onward_LEE.sum(axis=(1, 2)).tolist() == [2 * TOKENS * TOP_K**2] * 2


def test_one_expert_layer_has_no_pairs_across_layers() -> None:
    counter = RouteCounter(1, EXPERTS, torch.device("cpu"))
    counter(decisions(0)[:1])
    assert counter.routes().onward_LEE.shape == (0, EXPERTS, EXPERTS)
