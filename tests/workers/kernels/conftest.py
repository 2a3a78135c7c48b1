"""Expert layers to compare back ends on.

Letters: T tokens, E experts, K top-k, D width, F expert width, G = 2F gate and up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor


class Case(NamedTuple):
    x_TD: Tensor
    gate_up_EGD: Tensor
    down_EDF: Tensor
    expert_TK: Tensor
    weight_TK: Tensor

    @property
    def leaves(self) -> dict[str, Tensor]:
        return {name: value for name, value in self._asdict().items() if value.requires_grad}


ROUTINGS = ("uniform", "all on one", "one empty", "one token", "every expert", "top 1", "odd sizes")


def make_case(routing: str, dtype: torch.dtype = torch.float32) -> Case:
    tokens, experts, top_k = {
        "one token": (1, 8, 2),
        "every expert": (13, 4, 4),
        "top 1": (29, 8, 1),
        "odd sizes": (31, 7, 3),
    }.get(routing, (64, 8, 2))
    generator = torch.Generator().manual_seed(len(routing))
    width, hidden = 16, 24

    def leaf(*shape: int) -> Tensor:
        value = torch.randn(*shape, generator=generator) / shape[-1] ** 0.5
        return value.to(dtype).requires_grad_()

    score_TE = torch.rand(tokens, experts, generator=generator)
    if routing == "all on one":
        score_TE[:, 5] += 1
    if routing == "one empty":
        score_TE[:, 5] -= 1
    return Case(
        x_TD=leaf(tokens, width),
        gate_up_EGD=leaf(experts, 2 * hidden, width),
        down_EDF=leaf(experts, width, hidden),
        expert_TK=score_TE.topk(top_k).indices,
        weight_TK=torch.rand(tokens, top_k, generator=generator).requires_grad_(),
    )


@pytest.fixture
def case_of() -> Callable[..., Case]:
    return make_case


@pytest.fixture(params=ROUTINGS)
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)
