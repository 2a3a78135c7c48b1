"""`evenload import`: what other programs recorded of their experts, as a run of this home."""

import pickle
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import require
from evenload.pipeline.records.imports import FORMATS
from evenload.pipeline.records.imports.recorded import Asked, Recorded
from evenload.pipeline.records.recorded_runs import RecordedRun
from evenload.pipeline.records.run_writer import RunWriter, recorded_step
from evenload.pipeline.records.scores import FILE, write_recording
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.load_shape import LoadShape
from evenload.workers.cli.session import AsJson, load_settings, log, out, print_json

CHUNK = 50  # steps that are written at once
FORMAT_HELP = "; ".join(f"{name}: {each.content}" for name, each in FORMATS.items())


def import_command(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help=FORMAT_HELP)],
    files: Annotated[list[Path], typer.Argument(help="files of one recording")],
    name: Annotated[str, typer.Option(help="name of the run in this home")],
    num_experts: Annotated[
        int | None, typer.Option(min=2, help="experts per layer, if the files do not tell")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="experts per token, if the files do not tell")
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(help="what makes scores of logits: softmax, sigmoid, sqrtsoftplus or logit"),
    ] = None,
    score_tokens: Annotated[
        int, typer.Option(min=1, help="tokens whose scores are kept, per step and layer")
    ] = 256,
    tokens_per_step: Annotated[
        int | None, typer.Option(min=1, help="tokens of a step; left out, a request is a step")
    ] = None,
    as_json: AsJson = False,
    home: Annotated[Path | None, typer.Option(help="folder with store and records")] = None,
) -> None:
    """Take over what Megatron, SGLang, vLLM, torchtitan or a table recorded of their experts.

    It becomes a recorded run, which `evenload runs` lists and the dashboard shows. Where the files
    hold logits, `evenload advise NAME` and `evenload simulate` replay any rule on them.
    """
    if kind not in FORMATS:
        raise SpecError(f"format={kind!r} is unknown; choose one of {', '.join(FORMATS)}")
    settings = load_settings(home)
    asked = Asked(num_experts, top_k, score, score_tokens, tokens_per_step, _load_torch)
    recorded = FORMATS[kind].read(files, asked)
    run = _write(settings, name, f"import {kind}", recorded)
    for note in recorded.notes:
        log.print(note)
    if as_json:
        print_json(_document(run, recorded))
    else:
        shape, figures = run.shape, run.figures()
        out.print(
            f"{run.run_id}: {len(recorded.step_S)} steps of {shape.num_layers} layers, "
            f"top {shape.top_k} of {shape.num_experts}; MaxVio {figures['max_vio']:.2f}, a fair "
            f"router {figures['max_vio_floor']:.2f}; idle experts {figures['idle_frac']:.1%}"
        )
        if recorded.scores is not None:
            out.print(f"with scores: `evenload advise {run.run_id}` says what rules would do")


def _write(settings: Settings, name: str, source: str, recorded: Recorded) -> RecordedRun:
    settings.make_home(to_write=True)
    shape = LoadShape(
        layers=recorded.layers, num_experts=recorded.count_SLE.shape[2], top_k=recorded.top_k
    )
    unit = "" if recorded.scores is None else recorded.scores.unit
    try:
        writer = RunWriter.create(settings.root, name, source=source, shape=shape, unit=unit)
        if recorded.scores is not None:
            write_recording(writer.run.folder / FILE, recorded.scores)
    except OSError as error:
        raise SpecError(f"home={str(settings.home)!r}: {error.strerror}; make room") from None
    steps = zip(recorded.step_S.tolist(), recorded.count_SLE, strict=True)
    while chunk := [recorded_step(*step) for step in islice(steps, CHUNK)]:
        writer.write(chunk)
    writer.close()
    if writer.run.dropped_steps or writer.unwritten:
        raise SpecError(f"{writer.run.folder}: steps could not be written; make room, import again")
    return writer.run


def _document(run: RecordedRun, recorded: Recorded) -> dict[str, Any]:
    scores = None if recorded.scores is None else run.folder / FILE
    about = {"folder": run.folder, "steps": len(recorded.step_S), "scores": scores}
    return run.model_dump() | about | {"notes": recorded.notes, "figures": run.figures()}


def _load_torch(path: Path) -> Any:
    """A .pt file with its tensors as arrays.  Raises: SpecError: it is none, or holds code"""
    require("torch")
    import torch

    try:
        return _arrays(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError):
        raise SpecError(
            f"{path}: no file of torch.save that holds data alone; pass a dump as it was written"
        ) from None


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_arrays(each) for each in value]
    if not hasattr(value, "numpy"):
        return value
    return (value.double() if value.is_floating_point() else value).numpy()
