"""Whether a balancing rule can act on a model of another's code."""

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.other_models import OtherModel
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import add_bias, keep_bias

PROBABILITY = "probability"


def check_rule(spec: TrialSpec) -> None:
    """Raises: SpecError: the rule needs what the model of the resolved trial does not have"""
    if isinstance(spec.model, OtherModel) and (reason := _misfit(spec, spec.model)):
        raise SpecError(
            f"balancer.kind={spec.balancer.kind!r} cannot balance model.kind={spec.model.kind!r}: "
            f"{reason}"
        )


def _misfit(spec: TrialSpec, model: OtherModel) -> str:
    rule, found = make_balancer(spec.balancer, model.found.top_k), model.found
    if rule.selects != "tokens":
        return "it lets experts choose tokens, and the model's own code lets tokens choose experts"
    if rule.adjust is not add_bias and found.bias != "added":
        return "it selects by more than a bias, and the model's own code adds a bias alone"
    if rule.update is not keep_bias and found.bias == "none":
        return "its routers choose groups first and have no bias of their own; use none or aux_loss"
    if found.scores != PROBABILITY and (rule.loss is not None or spec.balancer.kind == "quantile"):
        return f"it takes scores in (0, 1), and the routers select on a {found.scores}"
    return ""
