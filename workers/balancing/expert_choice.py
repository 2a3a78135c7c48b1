"""Expert choice: each expert takes its top K T / E tokens of the batch. Perfect balance by design.

Whether an expert takes a token depends on later tokens. More than K log2((1-R)/R) bits per token
and layer leak, R = K/E, so the loss is not comparable to that of other rules and is never ranked.
Source: Zhou et al. 2022, arXiv:2202.09368; the leak: Wang et al. 2024, arXiv:2408.15664, section 5.
"""

from evenload.workers.balancing.base import Balancer, BiasState, keep_bias


def make() -> Balancer:
    return Balancer(init=BiasState.zeros, update=keep_bias, causal=False, selects="experts")
