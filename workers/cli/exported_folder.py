"""Writes a trained trial as a folder that transformers, lm-eval and vLLM load."""

from pathlib import Path
from typing import Any

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records import provenance
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.data import BpeTokenizer, BytesTokenizer, FileTokenizer, TextData
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord, TrialState
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import add_bias
from evenload.workers.cli.session import log, open_store
from evenload.workers.data.corpus import prepare
from evenload.workers.data.tokenizer import BytesEncoder, read_encoder
from evenload.workers.model.export.folder import check_folder, write_folder
from evenload.workers.model.export.model_card import Trained
from evenload.workers.model.export.tokenizer_files import TextTokenizer
from evenload.workers.training import checkpoint
from evenload.workers.training.scoring import inference_adjust

SAVED = (TrialState.TRAINED, TrialState.EVALUATING, TrialState.COMPLETED, TrialState.STOPPED)


def export_trial(digest: str, folder: Path, settings: Settings) -> dict[str, Any]:
    """Writes the folder and returns a description of it as a JSON document.

    Raises:   SpecError: the trial or its checkpoint does not exist, or no model type has its rule
    """
    check_folder(folder)
    trial = open_store(settings).trial(digest)
    spec = TrialSpec.model_validate(trial.spec)
    spec.own_model  # noqa: B018  raises for other models
    _check_rule(spec)
    path = _checkpoint(settings, trial)
    saved = checkpoint.mapped(path)
    attempts = provenance.read(readable_dir(settings, digest))
    trained = Trained(digest, spec, saved.step, trial.result, attempts)
    tokenizer = _tokenizer(spec, settings, attempts)
    kind = write_folder(folder, trained, saved.model, saved.balancer["bias_LE"], tokenizer)
    if tokenizer is None:
        log.print(f"data.kind={spec.data.kind!r} has only token ids: the folder has no tokenizer")
    return {
        "digest": digest,
        "step": saved.step,
        "model_type": kind.name,
        "folder": folder,
        "files": sorted(file.name for file in folder.iterdir()),
    }


def _check_rule(spec: TrialSpec) -> None:
    """Raises: SpecError: in inference the rule does not select experts by score plus bias"""
    if inference_adjust(make_balancer(spec.balancer, spec.model.top_k)) is not add_bias:
        raise SpecError(
            f"balancer.kind={spec.balancer.kind!r} does not select experts by score plus bias, "
            "as all model types of transformers do; export a trial with another rule"
        )


def _checkpoint(settings: Settings, trial: TrialRecord) -> Path:
    if trial.state not in SAVED:
        raise SpecError(
            f"trial {trial.digest} is {trial.state}, not trained; `evenload sweep status` shows "
            "its sweep, `evenload sweep run` trains it"
        )
    folder = readable_dir(settings, trial.digest, with_checkpoints=True) / "checkpoints"
    path = checkpoint.newest(folder)
    if path is None:
        raise SpecError(
            f"trial {trial.digest} is {trial.state}, but {folder} has no checkpoint; export it "
            "on the machine that trained it, or set EVENLOAD_HOME"
        )
    return path


def _tokenizer(
    spec: TrialSpec, settings: Settings, attempts: list[dict[str, str]]
) -> TextTokenizer | None:
    """The tokenizer of the trial, or None if its data has only token ids.

    Raises:   SpecError: the corpus, and so its tokenizer, is missing or has changed
    """
    if not isinstance(spec.data, TextData):
        return None
    match spec.data.tokenizer:
        case BytesTokenizer():
            return TextTokenizer(BytesEncoder().to_json(), end_id=0)
        case BpeTokenizer() | FileTokenizer() as asked:
            corpus = prepare(spec.data, settings.corpus_dir)
    trained_on = {attempt["corpus"] for attempt in attempts if "corpus" in attempt}
    if trained_on - {corpus.digest}:
        raise SpecError(
            f"the corpus of data.kind={spec.data.kind!r} is {corpus.digest} here but was "
            f"{', '.join(sorted(trained_on))} when the trial was trained, so its tokenizer "
            "differs; export the trial on a machine with that corpus"
        )
    assert corpus.tokenizer is not None, "every corpus of text has a tokenizer"
    encoder = read_encoder(corpus.tokenizer)
    return TextTokenizer(
        encoder.to_json(), end_id=encoder.end_id if isinstance(asked, FileTokenizer) else 0
    )
