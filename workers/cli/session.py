"""What commands share: settings, a migrated store, resolved trials, JSON output.

Store and plan are imported where they are used: a GPU machine without them runs benchmarks.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.escaping import for_terminal
from evenload.pipeline.redaction import redacted, secrets
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord

if TYPE_CHECKING:
    from evenload.pipeline.store.sweep_store import SweepStore
    from evenload.pipeline.sweep.answer import Answer

REMOVED = {"EVENLOAD_TRACKING_PATIENCE_SECONDS": "no trial waits for MLflow"}
AsJson = Annotated[bool, typer.Option("--json", help="one JSON document on standard output")]
NewVersion = Annotated[
    bool,
    typer.Option(
        "--new-version",
        help="train anew if data or code have changed; the old trials stay, under another id",
    ),
]
PIPE_WIDTH = 144  # of tables that go to a file or a pipe


class PlainConsole(Console):
    """Prints text of users as it is: brackets are no markup, and control characters are shown."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=for_terminal(segment.text))


out = PlainConsole(width=None if sys.stdout.isatty() else PIPE_WIDTH)
log = PlainConsole(stderr=True)
documents: list[str] = []  # what `print_json` has printed


def load_settings(home: Path | None = None) -> Settings:
    """Settings from flags, then the environment, then defaults.  Raises: SpecError"""
    for name, instead in REMOVED.items():
        if name in os.environ:
            log.print(f"{name} has no effect any more: {instead}; remove it", soft_wrap=True)
    try:
        return Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        rest = first_message(error).removeprefix(key)
        raise SpecError(f"environment: EVENLOAD_{key.upper()}{rest}") from None


def open_store(settings: Settings, create: bool = False) -> "SweepStore":
    """Opens the store and upgrades it if necessary.

    Args:     create: make one if there is none, for commands that store something
    Raises:   SpecError: there is none, or the home or the database cannot be used
    """
    from evenload.pipeline.store.sweep_store import SweepStore

    if create:
        settings.make_home(to_write=True)
    elif settings.database_url is None and not settings.has_store:
        raise SpecError(
            f"home={str(settings.home)!r}: no store here; --home or EVENLOAD_HOME names another "
            "folder, and `evenload sweep run` makes a store"
        )
    store = SweepStore(settings.store_url)
    store.migrate()
    return store


def initial_trials(
    spec: SweepSpec, settings: Settings, has_cuda: bool | None = None
) -> list[tuple[str, TrialSpec]]:
    """The first trials of a sweep with their digests; see `identity.identify`."""
    from evenload.workers.data.corpus import prepare
    from evenload.workers.training.identity import with_digests

    found = with_digests(checked_trials(spec, settings, has_cuda), settings)
    for data in {trial.data for _, trial in found}:
        origin = prepare(data, settings.corpus_dir).origin
        if origin is not None and origin.empty and data.kind != "python_stdlib":
            log.print(f"data: {origin.empty:,} rows or files without text (null or empty) left out")
    return found


def checked_trials(
    spec: SweepSpec, settings: Settings, has_cuda: bool | None = None
) -> list[TrialSpec]:
    """The trials of `initial_trials` without their digests, which need torch."""
    from evenload.pipeline.sweep.search import propose
    from evenload.workers.training.identity import checked

    proposed = propose(spec)
    trials = checked(proposed, settings, has_cuda)
    for note in _notes(proposed, trials):
        log.print(note, style="dim", soft_wrap=True)
    return trials


def _notes(proposed: Sequence[TrialSpec], trials: Sequence[TrialSpec]) -> Iterator[str]:
    """What `auto` means for these trials, and what is slow where they run."""
    on_gpu = {trial.train.precision for trial in trials if trial.runtime.device == "cuda"}
    if not on_gpu and any(trial.runtime.device == "auto" for trial in proposed):
        yield "no CUDA device: `device: auto` means the CPU"
    if "bfloat16" in on_gpu and any(trial.train.precision == "auto" for trial in proposed):
        yield "`precision: auto` means bfloat16 on the GPU; routers and sums stay in float32"
    if "float32" in on_gpu:
        yield (
            "warning: `precision: float32` is slow on a GPU, which has fast products of experts "
            "in bfloat16 alone; use auto or bfloat16"
        )


def short_of_disk(trials: Sequence[tuple[str, TrialSpec]], settings: Settings) -> str:
    """The `disk_shortage` of those trials that have no folder yet."""
    from evenload.pipeline.sweep.trial_plan import disk_shortage, plan_trial

    new = [trial for digest, trial in trials if not settings.trial_dir(digest).exists()]
    return disk_shortage([plan_trial(trial) for trial in new], settings.root)


def sweep_document(
    sweep_id: str, trials: Sequence[TrialRecord], answer: "Answer"
) -> dict[str, Any]:
    """The outcome of a sweep as one JSON value."""
    from evenload.pipeline.sweep.answer_text import sentences

    return {
        "sweep_id": sweep_id,
        "trials": [trial_document(trial) for trial in trials],
        "answer": sentences(answer),
        "named": {setting.place: setting.label for setting in answer.named},
        "is_provisional": answer.is_provisional,
        "evidence": answer,
    }


def trial_document(trial: TrialRecord) -> dict[str, Any]:
    return {"num_experts": trial.spec["model"]["num_experts"], **dataclasses.asdict(trial)}


def print_json(document: Any) -> None:
    """Prints exactly one document on standard output. NaN becomes null, because JSON lacks it."""
    text = json.dumps(_plain(document), indent=2)
    documents.append(text)
    sys.stdout.write(redacted(text, secrets(Settings.model_construct())) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, datetime | Path):
        return str(value)
    return value
