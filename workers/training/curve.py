"""Measures a trial's learning curve: the validation loss during training, with frozen biases."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import CurvePoint
from evenload.workers.data.corpus import Corpus
from evenload.workers.data.shards import even_windows
from evenload.workers.training.scoring import scorer_of
from evenload.workers.training.setup import Assembly


class CurveMeter:
    """Scores a model every `eval.every_steps` steps and at the end.

    A run computes the same numbers with and without a meter, because scoring uses a copy of the
    random state and restores the mode of the model.

    Args:     on_point: receives the points of the curve
              seconds: training time of earlier attempts
    """

    def __init__(
        self,
        spec: TrialSpec,
        assembly: Assembly,
        corpus: Corpus,
        on_point: Callable[[CurvePoint], None],
        seconds: float,
    ) -> None:
        self._spec, self._assembly, self._on_point = spec, assembly, on_point
        self._window_NS = even_windows(
            corpus.validation, spec.train.seq_len, spec.eval.curve_tokens
        )
        self._seconds = seconds
        self._vio_S: list[float] = []

    def is_due(self, step: int) -> bool:
        every = self._spec.eval.every_steps
        return every is not None and (step % every == 0 or step == self._spec.train.steps)

    def add_steps(self, records: Sequence[StepRecord]) -> None:
        """Adds steps to the time and imbalance of the next point."""
        target = self._spec.balancer.target
        self._seconds += sum(record.seconds for record in records)
        self._vio_S += [float(max_vio(record.count_LE, target).mean()) for record in records]

    def measure(self, step: int, bias_LE: Tensor) -> None:
        """Scores the model with this bias and passes on a point with the steps since the last."""
        vio_S, self._vio_S = self._vio_S, []
        tokens, loss = step * self._spec.train.tokens_per_step, self._score(bias_LE)
        vio = float(np.mean(vio_S)) if vio_S else float("nan")
        self._on_point(CurvePoint(step, tokens, self._seconds, loss, vio))

    def _score(self, bias_LE: Tensor) -> float:
        model, device = self._assembly.trainee.model, self._assembly.device
        was_training = model.training
        scorer = scorer_of(self._assembly, bias_LE, self._spec.eval.batch_sequences)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            loss = scorer.score(self._window_NS).loss
        model.train(was_training)
        return loss
