"""Balances and records somebody else's model: Hugging Face, torchtitan, plain PyTorch.

    routers       finds them: who calls topk on what, in one probe batch
    proof         what is shown of each before anything changes
    interception  selects on score + bias inside a router, and sees every selection
    bias          where a bias is kept, in float32
    passes        which forwards count, and which of their tokens
    stacks        counts and rule state of layers of one size
    attachment    all of it put into a model, and taken out again
    ranks         one sum per optimizer step
    options       what the user asked for
    score_sample  router scores for advice, if asked for
    run_record    loads and biases of every step in a home, if asked for
    background    the thread that writes them
    session       moves the biases once per optimizer step, tells what it saw
    saving        what is kept of a session

It imports torch and the rules, neither ray nor mlflow nor sqlalchemy, and transformers only in
`trainer_callback` and `export`: it lives in other people's training processes.
"""

import logging
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from evenload.pipeline.spec.balancers import BalancerSpec, parse_balancer
from evenload.workers.attach.bias import ADDED, is_swapped
from evenload.workers.attach.errors import AttachError as AttachError
from evenload.workers.attach.options import AddedBias, Asked, Options, Recorder
from evenload.workers.attach.ranks import Ranks
from evenload.workers.attach.score_sample import AskedScores, Sampling
from evenload.workers.attach.session import Balance as Balance

log = logging.getLogger("evenload.attach")


def attach(
    model: nn.Module,
    rule: str | Mapping[str, Any] | BalancerSpec = "self_tuned",
    *,
    probe: object = None,
    routers: Collection[nn.Module] | None = None,
    group: dist.ProcessGroup | None = None,
    every: int = 1,
    total_steps: int | None = None,
    added_bias: AddedBias | None = None,
    fade_over: float = 0.1,
    resume: str | Path | None = None,
    recorder: Recorder | None = None,
    record_scores: AskedScores = None,
    name: str | None = None,
    home: str | Path | None = None,
    mlflow: bool = False,
) -> Balance:
    """Balances the experts of a model from now on; nothing else about its training changes.

        balance = evenload.attach(model, added_bias="keep")
        balance.watch(optimizer)            # moves the biases after every optimizer step
        ...                                 # train as before
        balance.max_vio()                   # how even the last step was, by layer

    Padding, evaluation, generation and reference passes do not count, recomputation counts once.

    Args:
        rule:        a balancing rule's name, or a mapping with `kind` and its parameters; "none"
                     records only
        probe:       a batch that the model takes, if attach cannot make one: a tensor, a tuple of
                     arguments or a dict of keyword arguments
        routers:     these modules alone
        group:       ranks that hold other tokens; None is the default group where there is one
        every:       the rule moves on every so many steps, from that step's tokens alone
        total_steps: optimizer steps of the whole training, for what depends on the share done
        added_bias:  what becomes of the bias of a model that has none of its own. "keep": it stays,
                     is saved with the weights, and is read by `attach(resume=)` but not by serving
                     engines; "fade": it goes to zero over the last share `fade_over` of training.
                     Left out, it is kept, and a warning says so. See also `Balance.export`
        resume:      a folder or file that `save` wrote, or weights that were saved while attached
        recorder:    called after every step
        record_scores: file for a sample of the routers' scores, which `evenload advise` and
                     `evenload simulate` read; True: in the run of this `name`; or a mapping with
                     `path`, `tokens` per layer and step (256), `steps` (128) and `every` (1). Off
                     and free of cost if left out
        name:        records every step's loads and biases under this name, for the dashboard,
                     `evenload runs` and `evenload report`. A run that goes on after a stop goes
                     on in its record. No failure of the disk stops the training
        home:        folder of the record; left out: EVENLOAD_HOME, or `.evenload`
        mlflow:      also logs figures of every tenth step into the active MLflow run
    Raises:   AttachError: the model is as it was; the message says what to do
    """
    spec = parse_balancer({"kind": rule} if isinstance(rule, str) else rule)
    scores = Sampling.of(record_scores, name)
    record = None if name is None and not mlflow else Asked(name or "", home, mlflow)
    options = Options(spec, every, total_steps, added_bias, fade_over, recorder, scores, record)
    options.check()
    swapped = [name for name, module in model.named_modules() if is_swapped(module)]
    if swapped:
        raise AttachError(
            f"{swapped[0]} is attached already: call detach() of its session first. If this is a "
            "copy of an attached model: copy it after detach(), and attach(resume=) the biases"
        )
    balance = Balance(options, Ranks.of(group))
    balance.open(model, probe, routers)
    try:
        if resume is not None:
            balance.load(resume)
    except BaseException:
        balance.detach()
        raise
    if added_bias is None:
        _warn_of_added_biases(balance)
    balance.warn_of_adapters()
    log.info("%s", balance)
    return balance


def _warn_of_added_biases(balance: Balance) -> None:
    """Says what the user has to decide for a model without a bias of its own."""
    added = [layer.name for layer in balance.layers if layer.kind == "added"]
    if added:
        warnings.warn(
            f"{added[0]} has no bias of its own. The {ADDED!r} that is added is saved with the "
            "weights, but serving engines do not read it and would route differently. Pass "
            "added_bias='keep' if that is known, or 'fade' to train it away at the end; "
            "balance.export(folder) writes an equivalent type with a bias, where there is one",
            stacklevel=3,
        )
