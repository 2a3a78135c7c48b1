"""The sign rule: every bias moves by the step size towards its fair share.

b += u * sign(L - A), then centred.  Source: Wang et al. 2024, arXiv:2408.15664, algorithm 1;
DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2 (step size set to 0 late in training).
"""

from __future__ import annotations

from workers.balancing.base import (
    Balancer,
    BiasState,
    Observation,
    centre,
    load_error,
    scheduled,
)


def make(*, step_size: float, centred: bool, schedule: str, decay_from: float) -> Balancer:
    """Args:
    step_size:  units of the score; sigmoid scores lie in (0, 1)
    decay_from: share of the training after which the step size is 0; 1 is never
    """

    def update(observation: Observation, state: BiasState) -> BiasState:
        step = scheduled(step_size, schedule, state.updates)
        if observation.progress > decay_from:
            step = step * 0
        bias_LE = state.bias_LE + step * load_error(observation).sign()
        # Differs from the paper: centred. The selection is the same, and the mean cannot drift.
        return BiasState(centre(bias_LE) if centred else bias_LE, state.updates + 1)

    return Balancer(init=BiasState.zeros, update=update)
