"""The learning rate of each step: warm-up, then cosine, warmup-stable-decay or constant."""

import math

from evenload.pipeline.spec.trial import TrainSpec


def learning_rate(train: TrainSpec, step: int) -> float:
    """The learning rate of step `step`, counted from 1. The last step has the lowest rate."""
    if step <= train.warmup_steps:
        return train.learning_rate * step / train.warmup_steps
    done = (step - train.warmup_steps) / (train.steps - train.warmup_steps)
    floor = train.min_lr_share
    match train.schedule:
        case "cosine":
            share = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        case "wsd":
            decayed = max(0.0, (done - (1 - train.decay_share)) / train.decay_share)
            share = 1 - (1 - floor) * decayed
        case "constant":
            share = 1.0
    return train.learning_rate * share
