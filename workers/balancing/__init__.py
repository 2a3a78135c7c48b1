"""Balancing rules, one file per rule: `workers/balancing/<kind>.py` has `make(...) -> Balancer`.

The table `pipeline.spec.balancers.BALANCERS` lists the kinds with their parameters and defaults, so
that a spec can be checked on a machine without torch.
"""

from importlib import import_module

from evenload.pipeline.spec.balancers import PACE, BalancerSpec, parse_balancer
from evenload.workers.balancing.balance_loss import balance_loss
from evenload.workers.balancing.base import Balancer
from evenload.workers.balancing.combinators import paced


def make_balancer(spec: BalancerSpec, top_k: int) -> Balancer:
    """The rule that a spec describes, for a model that picks `top_k` experts per token.

    Raises:   ValueError: a target that no routing can meet
    """
    if spec.target is not None and max(spec.target) * top_k > 1:
        raise ValueError(
            f"target has a share of {max(spec.target):g}, but an expert can take at most "
            f"1/top_k={1 / top_k:g} of the assignments; lower it"
        )
    context = {"top_k": top_k, "target": spec.target}
    given = {name: context[name] for name in spec.rule.context}
    own = {name: value for name, value in spec.params.items() if name not in PACE}
    module = import_module(f"evenload.workers.balancing.{spec.kind}")
    rule: Balancer = module.make(**own, **given)
    if PACE.keys() <= spec.params.keys():
        rule = paced(rule, **{name: spec.params[name] for name in PACE})
    if spec.aux is not None:
        rule = rule._replace(loss=balance_loss(**spec.aux.model_dump(), target=spec.target))
    return rule


def balancer(kind: str, top_k: int, **params: object) -> Balancer:
    """The rule with this name and these parameters.

    Example: `balancer("sign", top_k=2, step_size=0.01)`

    Raises:   SpecError: no such rule or parameter, or a value out of its bounds
    """
    return make_balancer(parse_balancer({"kind": kind, **params}), top_k)
