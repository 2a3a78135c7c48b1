"""Expert choice: each expert takes its top K T / E tokens of the batch. Perfect balance by design.

Whether a token is taken depends on later tokens: more than K log2((1-R)/R) bits a token and layer
leak, R = K/E, so its loss is not comparable and it is never ranked.
Source: Zhou et al. 2022, arXiv:2202.09368; the leak: Wang et al. 2024, arXiv:2408.15664, section 5.
"""

from __future__ import annotations

from evenload.workers.balancing.base import Balancer, BiasState, keep_bias


def make() -> Balancer:
    return Balancer(init=BiasState.zeros, update=keep_bias, causal=False, selects="experts")
