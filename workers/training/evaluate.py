"""Scores a checkpoint on held-out text: loss, loads, scores by group and by k, and routes."""

import math

import numpy as np

from evenload.pipeline.figures.evaluation import Detail, GroupScores, LossByK
from evenload.pipeline.records.run import EvalRecord, RunIdentity, Sink
from evenload.pipeline.records.scalars import evaluation_figures
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.data.corpus import Corpus, check_fits, prepare_unchanged
from evenload.workers.data.shards import even_windows
from evenload.workers.training import checkpoint
from evenload.workers.training.loss_by_k import loss_by_k
from evenload.workers.training.route_counts import RouteCounter
from evenload.workers.training.scoring import Scorer, scorer_of
from evenload.workers.training.setup import assemble
from evenload.workers.training.telemetry import check_biases


def evaluate(
    spec: TrialSpec,
    *,
    settings: Settings,
    digest: str,
    checkpoint_uri: str,
    sink: Sink,
    run: RunIdentity,
) -> dict[str, float]:
    """Scores the checkpoint of a trained trial and records the scores.

    Args:     sink: this function starts it with `run`; the caller closes it
    Raises:   FloatingPointError: the loss or a bias is not finite
    """
    corpus = prepare_unchanged(spec.data, settings.corpus_dir, run.tags.get("corpus"))
    check_fits(spec, corpus)
    assembly = assemble(spec)
    saved = checkpoint.mapped(settings.path_of(checkpoint_uri))
    assembly.trainee.model.load_state_dict(saved.model)
    sink.start(run)
    bias_LE = saved.balancer["bias_LE"].to(assembly.device)
    check_biases(bias_LE.float().cpu().numpy(), f"step {saved.step}")
    scorer = scorer_of(assembly, bias_LE, spec.eval.batch_sequences)
    record = _record(spec, saved.step, scorer, corpus)
    if not math.isfinite(record.loss):
        raise FloatingPointError(
            f"step {saved.step}: held-out loss={record.loss}; lower train.learning_rate"
        )
    sink.log_eval(record)
    return evaluation_figures(record, spec)


def _record(spec: TrialSpec, step: int, scorer: Scorer, corpus: Corpus) -> EvalRecord:
    model, seq_len = spec.model, spec.train.seq_len
    routes = RouteCounter(model.num_moe_layers, model.num_experts, scorer.device)
    scores = scorer.score(
        even_windows(corpus.validation, seq_len, spec.eval.tokens),
        routes if spec.eval.routes else None,
    )
    return EvalRecord(
        step=step,
        loss=scores.loss,
        bits_per_byte=_bits_per_byte(scores.loss, corpus.bytes_per_token),
        perplexity=float(np.exp(scores.loss)),
        tokens=scores.tokens,
        count_LE=scores.count_LE.cpu().numpy(),
        leaked_share=corpus.origin.leaked_share if corpus.origin else None,
        detail=Detail(
            groups=_score_groups(spec, scorer, corpus),
            by_k=_score_by_k(spec, scorer, corpus),
            routes=routes.routes() if spec.eval.routes else None,
        ),
    )


def _score_groups(spec: TrialSpec, scorer: Scorer, corpus: Corpus) -> GroupScores | None:
    """Scores of the largest groups. Windows may span two documents of a group."""
    seq_len, tokens = spec.train.seq_len, spec.eval.group_tokens
    groups = corpus.groups.largest(spec.eval.groups, least_tokens=seq_len + 1)
    if not groups:
        return None
    scores = [
        scorer.score(corpus.groups.windows(corpus.validation, group, seq_len, tokens))
        for group in groups
    ]
    return GroupScores(
        name_G=tuple(group.name for group in groups),
        loss_G=np.array([scored.loss for scored in scores]),
        bits_per_byte_G=np.array(
            [
                _bits_per_byte(scored.loss, group.bytes_per_token)
                for scored, group in zip(scores, groups, strict=True)
            ]
        ),
        tokens_G=np.array([scored.tokens for scored in scores], dtype=np.int64),
        count_GLE=np.stack([scored.count_LE.cpu().numpy() for scored in scores]),
    )


def _score_by_k(spec: TrialSpec, scorer: Scorer, corpus: Corpus) -> LossByK | None:
    if spec.eval.by_k == "none":
        return None
    window_NS = even_windows(corpus.validation, spec.train.seq_len, spec.eval.by_k_tokens)
    return loss_by_k(spec, scorer, window_NS)


def _bits_per_byte(loss: float, bytes_per_token: float) -> float:
    return loss / math.log(2) / bytes_per_token
