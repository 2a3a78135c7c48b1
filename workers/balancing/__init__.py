"""Balancing rules, one file each: `workers/balancing/<kind>.py` has `make(**params) -> Balancer`.

Kinds, parameters and defaults stand in the table `pipeline.balancers.BALANCERS`, so that specs can
be checked where there is no torch.
"""

from __future__ import annotations

from importlib import import_module

from pipeline.balancers import BalancerSpec
from workers.balancing.base import Balancer


def make_balancer(spec: BalancerSpec) -> Balancer:
    """The rule that a spec describes."""
    rule: Balancer = import_module(f"workers.balancing.{spec.kind}").make(**spec.params)
    return rule
