"""Counts which experts tokens use together in a layer and in two consecutive layers.

Letters: T tokens, K top-k, L expert layers, E experts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from evenload.pipeline.figures.evaluation import Routes
from evenload.workers.model.contract import Routed


class RouteCounter:
    """Adds up the choices of all batches. Exact, because the sums of a batch stay below 2^24."""

    def __init__(self, num_layers: int, num_experts: int, device: torch.device) -> None:
        E = num_experts
        self._together_LEE = torch.zeros(num_layers, E, E, dtype=torch.int64, device=device)
        self._onward_LEE = torch.zeros(num_layers - 1, E, E, dtype=torch.int64, device=device)

    def __call__(self, layers: Sequence[Routed]) -> None:
        """Adds a batch whose tokens choose experts: row t of `expert_TK` must belong to token t."""
        above_TE: Tensor | None = None
        for layer, routed in enumerate(layers):
            chosen_TE = torch.zeros_like(routed.score_TE).scatter_(1, routed.expert_TK, 1.0)
            self._together_LEE[layer] += (chosen_TE.mT @ chosen_TE).long()
            if above_TE is not None:
                self._onward_LEE[layer - 1] += (above_TE.mT @ chosen_TE).long()
            above_TE = chosen_TE

    def routes(self) -> Routes:
        return Routes(self._together_LEE.cpu().numpy(), self._onward_LEE.cpu().numpy())
