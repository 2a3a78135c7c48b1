"""`evenload runs`: lists runs whose loads evenload recorded, but which it did not train."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import NONE
from evenload.pipeline.records.recorded_runs import recorded_runs
from evenload.workers.cli.session import AsJson, load_settings, log, out, print_json

FIGURES = ("max_vio", "max_vio_ratio", "idle_frac")
TITLES = ("run", "source", "rule", "layers x experts", "steps", "MaxVio", "over floor", "idle")


def runs(
    as_json: AsJson = False,
    home: Annotated[Path | None, typer.Option(help="folder with the records")] = None,
) -> None:
    """List recorded runs: attached models and imported records, newest first.

    Figures are means over layers and the last quarter of the steps, at most the last 1,000.
    `live` turns to `stale` if no step came for two minutes and for ten times as long as one takes.
    """
    root = load_settings(home).root
    found = recorded_runs(root)
    figures = [run.figures() for run in found]
    if as_json:
        print_json(
            [
                run.model_dump(mode="json", exclude={"folder"})
                | {"folder": run.folder, "state": str(run.state()), "figures": own}
                for run, own in zip(found, figures, strict=True)
            ]
        )
        return
    if not found:
        log.print(f"no recorded runs in {root}; evenload.attach(model, name=...) records one")
        return
    table = Table()
    for title in (*TITLES, "state"):
        table.add_column(title, justify="left" if title in (*TITLES[:3], "state") else "right")
    for run, own in zip(found, figures, strict=True):
        shape = run.shape
        table.add_row(
            run.run_id,
            run.source,
            run.label,
            f"{shape.num_layers} x {shape.num_experts}, top {shape.top_k}",
            f"{run.last_step:,}" if run.last_step else NONE,
            *(METRICS[name].shown(own[name]) for name in FIGURES),
            str(run.state()),
        )
    out.print(table)
