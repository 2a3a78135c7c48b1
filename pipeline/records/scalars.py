"""The figures of one step that MLflow gets as curves: about 25, never one per expert.

For 12 layers of 64 experts, scalars per expert took 0.2 s per step and 240 times the bytes of a
shard.
Shape suffixes: L expert layers, E experts.
"""

from __future__ import annotations

import numpy as np

from evenload.pipeline.figures.loads import max_vio_floor, step_scalars
from evenload.pipeline.records.run import Biases, StepRecord
from evenload.pipeline.spec.trial import TrialSpec


def logged_scalars(
    record: StepRecord, previous_bias_LE: Biases | None, spec: TrialSpec
) -> dict[str, float]:
    """The figures of a step by metric name. Figures of layers are means over layers.

    Args:     previous_bias_LE: the bias of the previous step; None at an attempt's first step
    """
    model, tokens = spec.model, spec.train.tokens_per_step
    return {
        "loss": record.loss,
        "balance_loss": record.balance_loss,
        "grad_norm": record.grad_norm,
        "learning_rate": record.learning_rate,
        "tokens": float(record.tokens),
        "tokens_per_second": tokens / record.seconds if record.seconds > 0 else float("nan"),
        **step_scalars(record.count_LE, spec.balancer.target),
        "max_vio_micro": record.max_vio_micro,
        "max_vio_floor": max_vio_floor(tokens, model.num_experts, model.top_k),
        **_bias_scalars(record.bias_LE, previous_bias_LE),
        "count_check": float((record.count_LE.sum(axis=-1) == tokens * model.top_k).all()),
    }


def _bias_scalars(bias_LE: Biases, previous_LE: Biases | None) -> dict[str, float]:
    step_LE = np.zeros_like(bias_LE) if previous_LE is None else bias_LE - previous_LE
    return {
        "bias_spread": float((bias_LE.max(axis=-1) - bias_LE.min(axis=-1)).mean()),
        "bias_absmax": float(np.abs(bias_LE).max(axis=-1).mean()),
        "bias_mean": float(bias_LE.mean()),
        "bias_step": float(np.abs(step_LE).mean()),
    }
