"""Records to figures: about 25 of a step that are worth a curve, and those of an evaluation.

Never one per expert: for 12 layers of 64 experts those took 0.2 s per step and 240 times the bytes
of a shard.
Shape suffixes: L expert layers, E experts.
"""

import numpy as np

from evenload.pipeline.figures.evaluation import GroupScores, specialisation
from evenload.pipeline.figures.loads import Loads
from evenload.pipeline.figures.metrics import figures
from evenload.pipeline.records.run import Biases, EvalRecord, StepRecord
from evenload.pipeline.spec.trial import TrialSpec


def logged_scalars(
    record: StepRecord, previous_bias_LE: Biases | None, spec: TrialSpec
) -> dict[str, float]:
    """The figures of a step by metric name. Figures of layers are means over layers.

    Args:     previous_bias_LE: the bias of the previous step; None at an attempt's first step
    """
    return step_scalars(record, previous_bias_LE, Loads.of(spec, record.count_LE[None]))


def step_scalars(
    record: StepRecord, previous_bias_LE: Biases | None, loads: Loads
) -> dict[str, float]:
    """As `logged_scalars`.  Args: loads: of this step"""
    tokens = loads.tokens
    return {
        "loss": record.loss,
        "balance_loss": record.balance_loss,
        "grad_norm": record.grad_norm,
        "learning_rate": record.learning_rate,
        "tokens": float(record.tokens),
        "tokens_per_second": tokens / record.seconds if record.seconds > 0 else float("nan"),
        "max_vio_micro": record.max_vio_micro,
        **figures("step", loads),
        **_bias_scalars(record.bias_LE, previous_bias_LE),
    }


def evaluation_figures(record: EvalRecord, spec: TrialSpec) -> dict[str, float]:
    """What an evaluation adds to a trial's result."""
    return {
        "val_loss": record.loss,
        "val_bits_per_byte": record.bits_per_byte,
        "val_perplexity": record.perplexity,
        "eval_tokens": float(record.tokens),
        **figures("evaluation", Loads.of(spec, record.count_LE[None], record.tokens)),
        **_group_figures(record.detail.groups),
        **({} if record.leaked_share is None else {"leaked_share": record.leaked_share}),
    }


def _group_figures(groups: GroupScores | None) -> dict[str, float]:
    """The worst group, and how far loads depend on the group, mean over layers."""
    if groups is None or len(groups.name_G) < 2:
        return {}
    by_layer = [specialisation(count_GE) for count_GE in groups.count_GLE.swapaxes(0, 1)]
    return {
        "val_bits_per_byte_worst_group": float(groups.bits_per_byte_G.max()),
        "specialisation": float(np.mean(by_layer)),
    }


def _bias_scalars(bias_LE: Biases, previous_LE: Biases | None) -> dict[str, float]:
    step_LE = np.zeros_like(bias_LE) if previous_LE is None else bias_LE - previous_LE
    return {
        "bias_spread": float((bias_LE.max(axis=-1) - bias_LE.min(axis=-1)).mean()),
        "bias_absmax": float(np.abs(bias_LE).max(axis=-1).mean()),
        "bias_mean": float(bias_LE.mean()),
        "bias_step": float(np.abs(step_LE).mean()),
    }
