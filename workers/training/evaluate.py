"""Scores a checkpoint on held-out text: loss and global load, biases frozen and untouched."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor

from pipeline.load_metrics import max_vio, max_vio_floor
from pipeline.records import EvalRecord, RunIdentity, Sink
from pipeline.settings import Settings
from pipeline.spec import TrialSpec
from workers.balancing.base import add_bias
from workers.data.corpus import Corpus, check_fits, prepare
from workers.data.shards import held_out
from workers.training import checkpoint
from workers.training.setup import Assembly, assemble
from workers.training.step import autocast, next_token_loss


class Scores(NamedTuple):
    loss: float  # nats per token
    count_LE: Tensor  # int64, summed over the evaluation set
    tokens: int


def evaluate(
    spec: TrialSpec,
    *,
    settings: Settings,
    digest: str,
    checkpoint_uri: str,
    sink: Sink,
    run: RunIdentity,
) -> dict[str, float]:
    """Scores the checkpoint that a train worker left and records the scores.

    Args:     sink: started here with `run`; the caller closes it
    """
    corpus = prepare(spec.data, settings.corpus_dir)
    check_fits(spec, corpus)
    assembly = assemble(spec)
    saved = checkpoint.load(Path(urlparse(checkpoint_uri).path), assembly.device)
    assembly.trainee.model.load_state_dict(saved.model)
    sink.start(run)
    scores = score(spec, assembly, saved.balancer["bias_LE"], corpus)
    record = _record(spec, saved.step, scores, corpus)
    sink.log_eval(record)
    return {
        "val_loss": record.loss,
        "val_bits_per_byte": record.bits_per_byte,
        "val_perplexity": record.perplexity,
        "max_vio_global": float(max_vio(record.count_LE, spec.balancer.target).mean()),
        "max_vio_global_floor": max_vio_floor(
            record.tokens, spec.model.num_experts, spec.model.top_k
        ),
        "eval_tokens": float(record.tokens),
    }


@torch.no_grad()
def score(spec: TrialSpec, assembly: Assembly, bias_LE: Tensor, corpus: Corpus) -> Scores:
    """Mean loss and loads over the held-out set, with the frozen bias.

    A rule that looks at the whole batch is replaced by plain biased top-k: at inference later
    tokens are not there to be looked at.
    """
    trainee = assembly.trainee
    adjust = trainee.balancer.adjust if trainee.balancer.causal else add_bias
    window_NS = torch.from_numpy(held_out(corpus.validation, spec.train.seq_len, spec.eval.tokens))
    total = torch.zeros((), dtype=torch.float64)
    count_LE = torch.zeros_like(bias_LE, dtype=torch.int64)
    trainee.model.eval()
    for token_BS in window_NS.split(spec.eval.batch_sequences):
        token_BS = token_BS.to(assembly.device)
        with autocast(assembly.device, trainee.autocast_dtype):
            output = trainee.model(token_BS[:, :-1], bias_LE, adjust)
        target_BS = token_BS[:, 1:]
        total += next_token_loss(output.logits_BSV, target_BS).double().cpu() * target_BS.numel()
        count_LE += torch.stack([routed.count_E for routed in output.routed])
    tokens = window_NS[:, 1:].numel()
    return Scores(float(total) / tokens, count_LE, tokens)


def _record(spec: TrialSpec, step: int, scores: Scores, corpus: Corpus) -> EvalRecord:
    return EvalRecord(
        step=step,
        loss=scores.loss,
        bits_per_byte=scores.loss / math.log(2) / corpus.bytes_per_token,
        perplexity=math.exp(scores.loss),
        tokens=scores.tokens,
        text_bytes=scores.tokens * corpus.bytes_per_token,
        count_LE=scores.count_LE.cpu().numpy(),
    )
