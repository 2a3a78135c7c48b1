"""What the user asked of attach, checked once."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.workers.attach.errors import AttachError
from evenload.workers.attach.routers import Router
from evenload.workers.attach.score_sample import Sampling
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import add_bias

# step, count_LE (int64), bias_LE (float32) that routed it; rows of fewer experts end in zeros.
Recorder = Callable[[int, Tensor, Tensor], None]

AddedBias = Literal["keep", "fade"]


class Asked(NamedTuple):
    """What a user says of the record of a run."""

    name: str
    home: str | Path | None  # None: that of the settings
    mlflow: bool  # also log figures into the MLflow run that is active in the training


class Options(NamedTuple):
    """The arguments of `attach` that hold for the whole training."""

    spec: BalancerSpec
    every: int
    total_steps: int | None
    added_bias: AddedBias | None
    fade_over: float
    recorder: Recorder | None
    record_scores: Sampling | None = None
    record: Asked | None = None

    @property
    def moves_biases(self) -> bool:
        return self.spec.kind != "none"

    def check(self) -> None:
        """Raises: AttachError: what no model could do"""
        params = self.spec.params
        rule = make_balancer(self.spec, top_k=1)
        if self.spec.aux is not None:
            raise AttachError(
                f"rule {self.spec.label!r} adds a loss, and the loss is your model's own: leave "
                "out aux, and give your model the auxiliary loss that it has"
            )
        if rule.loss is not None or rule.adjust is not add_bias or rule.selects != "tokens":
            raise AttachError(
                f"rule {self.spec.kind!r} does more than move a bias, and the model's code is not "
                "ours: use self_tuned, kalman, quantile, sign, proportional, smebu, ema or none"
            )
        if not rule.trains_router:
            raise AttachError(
                f"rule {self.spec.kind!r} freezes routers: call requires_grad_(False) on the "
                "model's and use 'proportional'"
            )
        if rule.measure is not None and rule.measure.reduction != "sum":
            raise AttachError(
                f"rule {self.spec.label!r} keeps the scores of all tokens of a step: use "
                "method='histogram' or self_tuned"
            )
        if self.record is not None and not self.record.name.strip():
            raise AttachError(
                f"name={self.record.name!r}: what is recorded, or logged to MLflow, needs a name"
            )
        if self.every < 1:
            raise AttachError(f"every={self.every}: must be at least 1")
        if self.added_bias == "fade" and not 0 < self.fade_over <= 1:
            raise AttachError(f"fade_over={self.fade_over}: must be a share in (0, 1]")
        starts = (params.get("freeze_from", 1), params.get("decay_from", 1))
        paced = params.get("warm_until", 0) > 0 or min(starts) < 1
        if self.total_steps is None and (paced or self.added_bias == "fade"):
            what = f"rule {self.spec.label!r}" if paced else "added_bias='fade'"
            raise AttachError(f"{what} needs the number of optimizer steps: pass total_steps=")

    def check_router(self, router: Router) -> None:
        """Raises: AttachError: the rule does not fit a router that is to be balanced"""
        target = self.spec.target
        if target is not None and len(target) != router.real_experts:
            raise AttachError(
                f"target has {len(target)} shares, but {router.name} has {router.real_experts} "
                "experts: give one share per expert"
            )
        if self.spec.kind == "quantile" and router.unit != "probability":
            raise AttachError(
                f"{router.name} selects on a {router.unit}, and the histogram of quantile is made "
                "for scores in (0, 1): use self_tuned"
            )

    def progress(self, steps: int) -> float:
        """Share of the training that is done after so many steps; 1 if nobody said how many."""
        return 1.0 if self.total_steps is None else min(1.0, steps / self.total_steps)

    def left(self, steps: int) -> float:
        """What is left of an added bias: 1, and towards the end less, down to 0."""
        if self.added_bias != "fade":
            return 1.0
        return min(1.0, (1 - self.progress(steps)) / self.fade_over)
