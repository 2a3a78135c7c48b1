"""A sample of router scores while a stranger's model trains, for `evenload advise` and `simulate`.

It holds a stated number of tokens of a stated number of steps and then ends. What goes wrong here
is logged and ends the recording, never the training.

Letters: N recorded steps, L layers, T tokens, E experts.
"""

from __future__ import annotations

import atexit
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from evenload.pipeline.errors import first_message
from evenload.pipeline.records import scores
from evenload.pipeline.records.scores import FILE, Recording, Scores
from evenload.pipeline.spec.spec_file import Frozen, PositiveInt
from evenload.workers.attach.attachment import Layer
from evenload.workers.attach.errors import AttachError

if TYPE_CHECKING:
    from evenload.workers.attach.run_record import RunRecord

log = logging.getLogger("evenload.attach")

P = ParamSpec("P")
AskedScores = bool | str | Path | Mapping[str, Any] | None


class Sampling(Frozen):
    """What `record_scores` of `attach` may hold beside the path."""

    path: Path | None = None
    """File to write, or a folder for `scores.npz`; null: the folder of the recorded run."""
    tokens: PositiveInt = 256
    """Tokens per layer and step: the first ones of a step that are no padding."""
    steps: Annotated[int, Field(ge=64)] = 128
    """Steps to record; advice needs 64."""
    every: PositiveInt = 1
    """Optimizer steps from one recorded step to the next."""

    @staticmethod
    def of(asked: AskedScores, name: str | None) -> Sampling | None:
        """Args:     name: of the recorded run.  Raises: AttachError: a value that cannot be"""
        if asked is None or asked is False:
            return None
        given = dict(asked) if isinstance(asked, Mapping) else {"path": asked}
        given = {} if asked is True else given
        try:
            sampling = Sampling.model_validate(given)
        except ValidationError as error:
            raise AttachError(f"record_scores: {first_message(error)}") from None
        if sampling.path is None and name is None:
            raise AttachError("record_scores: pass a path, or name= of a run that will hold them")
        if sampling.path is None or sampling.path.suffix:
            return sampling
        return sampling.model_copy(update={"path": sampling.path / FILE})


def _harmless(
    method: Callable[Concatenate[ScoreSampler, P], None],
) -> Callable[Concatenate[ScoreSampler, P], None]:
    @wraps(method)
    def call(self: ScoreSampler, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if not self.is_on:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is not ours to stop
            self.is_on = False
            log.warning("router scores are no longer recorded, training goes on: %r", error)

    return call


class ScoreSampler:
    """Raises: AttachError: the layers' scores do not fit into one recording"""

    def __init__(self, sampling: Sampling, layers: Sequence[Layer], is_first_rank: bool) -> None:
        self.sampling, self._layers = sampling, layers
        self.run: RunRecord | None = None  # its folder is the place if no path was given
        self.is_on = is_first_rank  # other ranks see other tokens of the same routers
        router = layers[0].router
        _check(layers)
        size = sampling.steps, len(layers), router.num_experts
        self.tokens = scores.room_for(sampling.tokens, *size)
        self._sample_NL: list[list[Scores]] = []
        self._bias_NLE: list[Scores] = []
        self._all_tokens, self._steps, self._unwritten = 0, 0, False
        self._clear()
        if self.is_on:
            if sampling.path is not None:
                _check_writable(sampling.path)
            atexit.register(self.close)

    def _clear(self) -> None:
        """A step begins. Parts of it by layer, (T, E) each: of this forward, of those before."""
        self._staged: list[list[Tensor]] = [[] for _ in self._layers]
        self._step: list[list[Tensor]] = [[] for _ in self._layers]

    @property
    def _wants(self) -> bool:
        """Whether the step that is running is one of those to be recorded."""
        is_due = self._steps % self.sampling.every == 0
        return is_due and len(self._sample_NL) < self.sampling.steps

    @property
    def _path(self) -> Path | None:
        """Where to write; None if the run that is to hold it has no step yet."""
        if self.sampling.path is None and self.run is not None and self.run.runs:
            return self.run.runs[0].folder / FILE
        return self.sampling.path

    @_harmless
    def begin(self) -> None:
        """A forward begins: what one staged that did not end is forgotten."""
        self._staged = [[] for _ in self._layers]

    @_harmless
    def take(self, layer: int, score_TE: Tensor, valid_T: Tensor | None) -> None:
        """Scores of one forward.  Args: score_TE: as the router's top-k got it"""
        there = sum(len(part) for part in (*self._step[layer], *self._staged[layer]))
        if not self._wants or there >= self.tokens:
            return
        found = self._layers[layer].found
        if found is not None and not found.is_added:  # its top-k gets scores that hold the bias
            score_TE = score_TE - found.bias_E.float()
        score_TE = score_TE if valid_T is None else score_TE[valid_T]
        self._staged[layer].append(score_TE[: self.tokens - there].clone())

    @_harmless
    def commit(self) -> None:
        """A forward has ended well."""
        for step, staged in zip(self._step, self._staged, strict=True):
            step += staged
        self._staged = [[] for _ in self._layers]

    @_harmless
    def end_step(self, count_LE: Tensor, bias_LE: Tensor) -> None:
        """Args: count_LE, bias_LE: of the step, over all ranks, and the bias that routed it"""
        if self._wants and all(self._step):
            self._sample_NL.append([torch.cat(parts).cpu().numpy() for parts in self._step])
            self._bias_NLE.append(bias_LE.float().cpu().numpy())
            self._all_tokens += int(count_LE[0].sum()) // self._layers[0].router.top_k
            self._unwritten = True
        self._steps += 1
        self._clear()
        if len(self._sample_NL) == self.sampling.steps:
            self.close()

    @_harmless
    def close(self) -> None:
        """Writes what is recorded, once there is a place; it ends when it is complete."""
        if self._unwritten and self._path is not None:
            self.write()

    def write(self) -> Path:
        """Raises: AttachError: nothing is recorded yet"""
        recording, path = self.recording(), self._path
        if path is None:
            raise AttachError("the run that is to hold the scores is not written yet: train on")
        scores.write_recording(path, recording)
        shape = recording.score_NLTE.shape
        log.info("%s: scores of %s steps, %s layers, %s tokens", path, *shape[:3])
        self._unwritten = False
        if len(self._sample_NL) == self.sampling.steps:
            self.is_on = False
            atexit.unregister(self.close)
        return path

    def recording(self) -> Recording:
        """The recording so far.  Raises: AttachError: it has no step yet"""
        if not self._sample_NL:
            raise AttachError(
                "no scores are recorded yet: train first, and call this on the first rank"
            )
        router = self._layers[0].router
        score_NLTE, kept = scores.stacked(self._sample_NL)
        bias_NLE = np.stack([self._bias_NLE[step] for step in kept])
        step_tokens = self._all_tokens // len(self._sample_NL)
        every = self.sampling.every
        return Recording(score_NLTE, bias_NLE, router.top_k, every, step_tokens, router.unit)


def _check_writable(path: Path) -> None:
    """Now rather than after hours of training.  Raises: AttachError"""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise AttachError(f"record_scores: {path}: {error.strerror}; give another path") from None


def _check(layers: Sequence[Layer]) -> None:
    first = layers[0].router
    for layer in layers:
        router = layer.router
        if router.output is not None:
            raise AttachError(f"record_scores: {router.name} makes no top-k call to see scores in")
        if router.real_experts < router.num_experts:
            raise AttachError(
                f"record_scores: {router.name} has classes without computation, which no advice "
                "can be given for; leave record_scores out"
            )
        kinds = [f"top {r.top_k} of {r.num_experts} on a {r.unit}" for r in (router, first)]
        if kinds[0] != kinds[1]:
            raise AttachError(
                f"record_scores: {router.name} has {kinds[0]}, {first.name} {kinds[1]}; pass "
                "routers= of one kind"
            )
