"""What a run records (identity, steps, evaluation) and the protocol of the sinks that receive it.

Shape suffixes: L expert layers, E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.figures.evaluation import Detail
from evenload.pipeline.records.fence import OPEN, Fence

Counts = NDArray[np.int32]
Biases = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One optimizer step. Counts are over all ranks and micro-batches, without padding."""

    step: int  # from 1
    loss: float  # mean next-token loss of the language model, nats per token
    balance_loss: float  # the term that the balancing rule added to the objective
    grad_norm: float  # before clipping
    learning_rate: float
    tokens: int  # trained so far, including this step
    seconds: float  # wall clock of this step
    count_LE: Counts  # assignments per expert
    bias_LE: Biases  # the bias with which this step was routed
    max_vio_micro: float  # mean over micro-batches and layers of MaxVio within a micro-batch


@dataclass(frozen=True, slots=True)
class EvalRecord:
    """The held-out evaluation of one checkpoint, with frozen biases."""

    step: int
    loss: float  # nats per token
    bits_per_byte: float
    perplexity: float  # exp(loss), per token
    tokens: int
    count_LE: NDArray[np.int64]  # summed over the whole evaluation set
    detail: Detail = field(default_factory=Detail)
    leaked_share: float | None = None  # of the held-out words; None: the documents are not known


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Identifies the run that a sink records."""

    digest: str
    name: str
    sweep_id: str | None
    attempt: int
    spec: dict[str, Any]  # TrialSpec.model_dump(mode="json")
    tags: dict[str, str] = field(default_factory=dict)
    resumed_from_step: int = 0
    fence: Fence = field(default=OPEN, compare=False, repr=False)


class Sink(Protocol):
    """Receives what a run produces and writes it to the local disk.

    An error of `start` fails the trial. The other methods do not raise if the disk cannot be
    written: the sink counts that in `errors`, and writes later if possible.
    """

    @property
    def errors(self) -> int: ...

    def start(self, run: RunIdentity) -> None: ...

    def log_steps(self, records: Sequence[StepRecord]) -> None: ...

    def log_eval(self, record: EvalRecord) -> None: ...

    def checkpoint(self) -> None:
        """A checkpoint is complete, so everything up to it must be durable now."""

    def close(self) -> None:
        """The attempt has nothing more to record. Called once, also after an error."""
