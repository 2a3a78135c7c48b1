"""The sign rule: every bias moves by the step size towards its fair share.

b += u * sign(L - A), then centred.  Source: Wang et al. 2024, arXiv:2408.15664, algorithm 1;
DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2.
"""

from evenload.workers.balancing.base import Balancer, BiasState, Observation, load_error, scheduled
from evenload.workers.balancing.combinators import centred as centred_rule


def make(*, step_size: float, centred: bool, schedule: str) -> Balancer:
    """Args:
    step_size: in units of the score; sigmoid scores are between 0 and 1
    """

    def update(observation: Observation, state: BiasState) -> BiasState:
        step = scheduled(step_size, schedule, state.updates)
        bias_LE = state.bias_LE + step * load_error(observation).sign()
        return BiasState(bias_LE, state.updates + 1)

    rule = Balancer(init=BiasState.zeros, update=update)
    # Differs from the paper: centred by default, which keeps the selection and stops a drift.
    return centred_rule(rule) if centred else rule
