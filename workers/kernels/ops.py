"""The functions of a back end: its expert layer, and its router kernel if it has one.

A back end is a module with `run_experts(x_TD, gate_up_EGD, down_EDF, rows) -> y_TD` that agrees
with the one in `reference`. It may also have a router kernel for rules that select by score + bias.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from torch import Tensor

from evenload.workers.kernels.backends import backend
from evenload.workers.kernels.routing import Gate, Route
from evenload.workers.kernels.rows import Rows
from evenload.workers.selection import NO_BINS, Bins

Product = Callable[[Tensor, Tensor], Tensor]
RunExperts = Callable[[Tensor, Tensor, Tensor, Rows], Tensor]


class RouteTokens(Protocol):
    def __call__(
        self, logit_TE: Tensor, bias_E: Tensor, gate: Gate, bins: Bins = NO_BINS
    ) -> Route: ...


def experts_of(name: str) -> RunExperts:
    """The expert layer of a resolved back end.  Raises: SpecError: the back end does not exist"""
    return getattr(import_module(backend(name).module), backend(name).layer)


def router_of(name: str) -> RouteTokens | None:
    """The router kernel of a resolved back end, or None if the back end routes with torch."""
    module = backend(name).router
    if module is None:
        return None
    return import_module(module).route


def router_product_of(name: str) -> Product | None:
    """x @ weight^T on tensor cores with an error of 2^-17, or None if the back end has torch's."""
    module = backend(name).router
    return None if module is None else import_module(module).product_of_halves
