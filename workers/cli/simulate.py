"""`evenload simulate` and `evenload advise`: rules on score streams, and advice from theory."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.recorded_runs import recorded_run
from evenload.pipeline.spec.simulation import Recorded, SimulationSpec, load_simulation
from evenload.workers.actors.device_memory import available_bytes
from evenload.workers.cli.progress import progress_bars
from evenload.workers.cli.session import AsJson, load_settings, log, out, print_json

if TYPE_CHECKING:
    from evenload.workers.simulation.advice import Advice, Estimate
    from evenload.workers.simulation.result import SimulationResult
    from evenload.workers.simulation.rule_runner import ProgressCallback

GIB = 2**30

HomeOption = Annotated[Path | None, typer.Option("--home", help="folder with recorded runs")]


def simulate(
    simulation_file: Annotated[Path, typer.Argument(help="YAML file of a simulation")],
    as_json: AsJson = False,
    check: Annotated[
        Literal["theory"] | None, typer.Option(help="also check the statements of the theory")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="folder for result.json and history.parquet")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Run balancing rules on streams of router scores, without a model.

    The table has MaxVio in the steady state, the sampling floor, steps to balance and recovery
    after a jump. It helps to choose ten of a hundred step sizes before using GPU hours.
    """
    spec = _with_recordings(load_simulation(simulation_file), home)
    from evenload.workers.simulation.run import simulate as run_simulation  # with torch

    _check_device(spec)
    _check_memory(spec)
    with progress_bars(log, transient=True) as bar:
        result = run_simulation(spec, _shown_on(bar), theory=check == "theory")
    if out_folder is not None:
        result.write(out_folder)
        log.print(f"result.json, and every step of every seed in {out_folder / 'history.parquet'}")
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result)


def advise_command(
    recording_file: Annotated[
        Path,
        typer.Argument(help="recording of scores, or the folder or name of a run that has one"),
    ],
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps of the planned run")] = 1000,
    layer: Annotated[int, typer.Option(min=0, help="expert layer, counted from 0")] = 0,
    as_json: AsJson = False,
    home: HomeOption = None,
) -> None:
    """Show which step sizes and schedules theory recommends for a recorded run."""
    seen, advice = advised(_found(recording_file, home), steps, layer)
    if as_json:
        print_json({"seen": seen._asdict(), "advice": [entry._asdict() for entry in advice]})
    else:
        _print_advice(seen, advice, steps)


def advised(place: Path, steps: int, layer: int) -> tuple["Estimate", list["Advice"]]:
    """What theory sees in a recording and advises.  Raises: SpecError: there is too little in it"""
    from evenload.pipeline.records.scores import read_recording
    from evenload.workers.simulation.advice import advise, estimate

    recording = read_recording(place)
    num_layers = recording.score_NLTE.shape[1]
    if layer >= num_layers:
        raise SpecError(f"layer={layer}: the recording has {num_layers} layers, counted from 0")
    try:
        seen = estimate(recording, layer)
    except ValueError as error:
        raise SpecError(f"{place}: {error}") from None
    return seen, advise(seen, steps)


def _found(place: Path, home: Path | None) -> Path:
    """The place itself, or the folder of the recorded run that has this name.

    Raises:   SpecError: neither is there
    """
    if place.exists() or place.suffix or len(place.parts) > 1:
        return place
    return recorded_run(load_settings(home).root, str(place)).folder


def _with_recordings(spec: SimulationSpec, home: Path | None) -> SimulationSpec:
    """The spec with folders in place of names of recorded runs."""
    streams = {
        name: stream.model_copy(update={"path": _found(stream.path, home)})
        if isinstance(stream, Recorded)
        else stream
        for name, stream in spec.streams.items()
    }
    return spec.model_copy(update={"streams": streams})


def _check_device(spec: SimulationSpec) -> None:
    import torch

    device, gpus = torch.device(spec.device), torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise SpecError(f"device={spec.device!r}: this machine has {gpus} CUDA devices; use cpu")


def _check_memory(spec: SimulationSpec) -> None:
    """Raises: SpecError: a step does not fit into memory (a recording has a size of its own)"""
    if all(isinstance(stream, Recorded) for stream in spec.streams.values()):
        return
    room = available_bytes("cpu")
    if spec.memory_bytes > room / 2:
        raise SpecError(
            f"tokens={spec.tokens} with {spec.num_experts} experts, {spec.seeds} seeds and "
            f"{spec.steps} steps takes about {spec.memory_bytes / GIB:,.0f} GiB; the host has "
            f"{room / GIB:,.0f} GiB; lower tokens, num_experts, seeds or steps"
        )


def _shown_on(bar: Progress) -> "ProgressCallback":
    """Moves the bar; if standard error is not a terminal, prints a line at every 5 %."""
    task = bar.add_task("simulate", total=None, note="")
    printed = -1

    def show(done: int, total: int, name: str) -> None:
        nonlocal printed
        bar.update(task, completed=done, total=total, note=name)
        if not log.is_terminal and 20 * done // total != printed:
            printed = 20 * done // total
            log.print(f"{name}: {done} of {total}")

    return show


def _print(result: "SimulationResult") -> None:
    from evenload.workers.simulation.result import COLUMNS

    out.print(_table(COLUMNS, result.rows()))
    out.print(
        f"T={result.spec.tokens} tokens per step, E={result.spec.num_experts} experts, "
        f"K={result.spec.top_k}, {result.spec.steps} steps, {result.spec.seeds} seeds. "
        f"steady MaxVio: mean of the last {result.spec.steady_steps} steps; ±: standard error over "
        "seeds.",
        style="dim",
    )
    if result.findings:
        columns = {name: name for name in result.finding_rows()[0]}
        out.print(_table(columns, result.finding_rows()))


def _table(columns: dict[str, str], rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    for title in columns.values():
        table.add_column(title)
    for row in rows:
        table.add_row(*(_cell(row[name]) for name in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _print_advice(seen: "Estimate", advice: Sequence["Advice"], steps: int) -> None:
    out.print(
        f"{seen.tokens} tokens per step, {seen.num_experts} experts, top-{seen.top_k}, scores and "
        f"biases in units of a {seen.unit}: {seen.density:.0f} tokens per unit of bias, "
        f"modulus {seen.modulus:.3g}, noise {seen.noise:.2g}, "
        f"drift {seen.drift:.2g} per step, travel {seen.travel:.2g}"
    )
    table = Table(title=f"for {steps} steps", box=SIMPLE_HEAD, title_justify="left")
    for title in ("rule", "verdict", "why"):
        table.add_column(title)
    for entry in advice:
        rule = " ".join(f"{name}={value}" for name, value in entry.rule.items())
        table.add_row(
            rule, Text("refused", "red") if entry.refused else Text("use", "green"), entry.reason
        )
    out.print(table)
