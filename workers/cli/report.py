"""`evenload report`: writes the answer of a sweep as one HTML page, and as markdown."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.figures.cost import CostSettings
from evenload.pipeline.records.recorded_runs import found_run
from evenload.pipeline.report.compose import compose
from evenload.pipeline.report.evidence import gather
from evenload.pipeline.report.html_page import html_page
from evenload.pipeline.report.markdown_page import markdown_page
from evenload.pipeline.report.recorded import compose_recorded
from evenload.pipeline.sweep.answer_text import sentences
from evenload.workers.cli.session import AsJson, load_settings, log, open_store, print_json


def report(
    sweep_id: Annotated[
        str, typer.Argument(help="id from `evenload sweep list` or `evenload runs`")
    ],
    html: Annotated[
        Path | None, typer.Option(help="file to write; default: SWEEP_ID.html in this folder")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="also write this markdown file")] = None,
    as_json: AsJson = False,
    home: Annotated[Path | None, typer.Option(help="folder with store and shards")] = None,
) -> None:
    """Write the answer of a sweep as one page: claims, evidence, cost, how to repeat.

    Of a recorded run it shows loads, idle experts and biases, and needs no store.

    The page needs no network. Energy and carbon that no counter has measured are computed from
    EVENLOAD_COST_GPU_WATTS, _CORE_WATTS, _OVERHEAD, _GRAMS_PER_KWH and _CARBON_SOURCE.
    """
    settings = load_settings(home)
    run = found_run(settings.root, sweep_id)
    if run is None:
        evidence = gather(open_store(settings), settings, _cost_settings(), sweep_id)
    page = compose(evidence) if run is None else compose_recorded(run)
    written = {"html": html or Path(f"{sweep_id}.html"), "markdown": markdown}
    texts = {"html": html_page, "markdown": markdown_page}
    for kind, path in written.items():
        if path is not None:
            _write(path, texts[kind](page))
            log.print(f"wrote {path}", soft_wrap=True)
    files = {kind: path for kind, path in written.items() if path is not None}
    if as_json and run is not None:
        print_json({"run_id": run.run_id, **run.figures(), "files": files})
    elif as_json:
        document = {
            "sweep_id": sweep_id,
            "answer": sentences(evidence.answer),
            "is_confirmed": evidence.answer.is_confirmed,
            "findings": evidence.findings,
            "gpu_seconds": evidence.cost.gpu_seconds,
            "core_seconds": evidence.cost.core_seconds,
            "joules": evidence.cost.joules,
            "grams_co2e": evidence.cost.grams,
            "files": files,
        }
        print_json(document)


def _cost_settings() -> CostSettings:
    try:
        return CostSettings()
    except ValidationError as error:
        raise SpecError(f"environment: EVENLOAD_COST_*: {first_message(error)}") from None


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; give a file that can be written") from None
