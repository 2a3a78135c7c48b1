"""Writes recorded results as markdown tables. `infra/record.py` records the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from record import Row, read

from evenload.pipeline.figures.metrics import METRICS, columns
from evenload.pipeline.figures.wording import number
from evenload.pipeline.states import TrialRecord, TrialState
from evenload.pipeline.sweep.answer import Answer, answer_of
from evenload.pipeline.sweep.answer_text import place_note, sentences
from evenload.pipeline.sweep.setting import Setting
from evenload.pipeline.sweep.statistics import interval

SEEDS = ("val_bits_per_byte", "max_vio", "max_vio_global", "idle_frac", "effective_util")
EVENLOAD = ("evenload", "evenload, compiled")  # our arms in the benchmark


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def measured_on(header: Row) -> str:
    """A sentence with command, date, hardware, versions and commit."""
    cores = f", {header['cores']} cores" if "cores" in header else ""
    load = f", load average {header['load']:.1f}" if "load" in header else ""
    versions = {"Python": header["python"]} if "python" in header else {}
    named = ", ".join(f"{name} {v}" for name, v in (versions | header.get("versions", {})).items())
    return (
        f"`{header['command']}`, {header['date']}, commit {header['commit'][:7]}; hardware: "
        f"{header['device']}{cores}{load}{f'; {named}' if named else ''}."
    )


def quickstart() -> str:
    header, trials = read("quickstart")
    shown = [metric for metric in columns() if any(metric.name in trial for trial in trials)]
    rows = [
        [
            trial["label"],
            str(trial["num_experts"]),
            str(trial["seed"]),
            *(metric.shown(trial.get(metric.name)) for metric in shown),
        ]
        for trial in trials
    ]
    titles = ("rule", "experts", "seed", *(metric.head for metric in shown))
    return "\n\n".join([table(titles, rows), _quoted(_answer(header, trials)), measured_on(header)])


def seeds() -> str:
    """Means over seeds with 95 % intervals, and what the answer says about every setting."""
    header, trials = read("five_seeds")
    by_label: dict[str, list[Row]] = {}
    for trial in trials:
        by_label.setdefault(trial["label"], []).append(trial)
    answer = _answer(header, trials)
    settings = {setting.label: setting for setting in answer.settings}
    rows = [_seed_row(settings[label], found) for label, found in by_label.items()]
    loss, *others = (METRICS[name].head for name in SEEDS)
    titles = ("rule", loss, "above the best, at most", "against none", *others, "verdict")
    notes = " ".join(map(place_note, answer.places))
    return "\n\n".join([table(titles, rows), notes, _quoted(answer), measured_on(header)])


def _seed_row(setting: Setting, trials: list[Row]) -> tuple[str, ...]:
    loss, *others = (
        METRICS[name].shown(interval([trial[name] for trial in trials])) for name in SEEDS
    )
    bounds = number(setting.above_best), number(setting.against_none, "+.3f")
    return setting.label, loss, *bounds, *others, setting.verdict.value


def _answer(header: Row, trials: list[Row]) -> Answer:
    """The answer of recorded trials, by the procedure of today."""
    return answer_of([_record(trial) for trial in trials], sweep_id=header.get("sweep_id", "ID"))


def _record(trial: Row) -> TrialRecord:
    known = {
        "digest": trial["digest"],
        "label": trial["label"],
        "spec": {
            "balancer": {"kind": trial["label"].split()[0]},
            "model": {"num_experts": trial["num_experts"]},
            "train": {"seed": trial["seed"]},
        },
        "state": TrialState.COMPLETED,
        "result": {name: value for name, value in trial.items() if isinstance(value, float)},
    }
    blank = dict.fromkeys(field.name for field in fields(TrialRecord))
    return TrialRecord(**{**blank, **known})


def _quoted(answer: Answer) -> str:
    return "\n>\n".join(f"> {sentence}" for sentence in sentences(answer))


def simulation() -> str:
    """Steady MaxVio of each rule on each stream, with steps to balance and to recover."""
    header, found = read("rules")
    streams = list(dict.fromkeys(row["stream"] for row in found))
    by_rule: dict[str, dict[str, Row]] = {}
    for row in found:
        by_rule.setdefault(row["rule"], {})[row["stream"]] = row
    rows = [
        (
            rule,
            *(f"{cells[stream]['max_vio']:.3f}" for stream in streams),
            _steps(cells[streams[0]]["steps_to_balance"]),
            _steps(cells[streams[-1]]["recovery_steps"]),
        )
        for rule, cells in by_rule.items()
    ]
    titles = ("rule", *streams, "cold start", "after the jump")
    return f"{table(titles, rows)}\n\n{measured_on(header)}"


def _steps(count: int | None) -> str:
    return "never" if count is None else str(count)


def training() -> str:
    """Compares steps with those of rivals, and stacks with their trials in turn."""
    header, found = read("training")
    rows: dict[str, list[Any]] = {"step": [], "stack": []}
    for row in found[:-1]:
        shape = f"{row['preset']}, {row['batch_sequences']} x {row['seq_len']}"
        if row["what"] == "step":
            ratios = [_ratio(row["slower_than"][own], "{:.2f}") for own in EVENLOAD]
            speed = f"{row['tokens_per_second']:,.0f}"
            rows["step"].append((shape, row["arm"], speed, *ratios))
        else:
            over = _ratio(row["stacked_over_apart"], "{:.2f}")
            rows["stack"].append((shape, row["of"], over))
    overhead = found[-1]
    bare, own = (_ratio(overhead[name], "{:+.1%}") for name in ("over_bare_loop", "over_own_steps"))
    over = [f"evenload over it{form}" for form in ("", ", compiled")]
    return "\n\n".join(
        [
            table(("model, sequences x tokens", "step of", "tokens/s", *over), rows["step"]),
            table(
                ("8 trials, sequences x tokens each", "of", "together over apart"), rows["stack"]
            ),
            f"A trial of {overhead['steps']} steps with everything that is recorded takes {own} "
            f"longer than its steps alone. Against a bare loop the difference is {bare}; that "
            "interval shows the noise of the machine more than anything else.",
            measured_on(header),
        ]
    )


def coordinator() -> str:
    header, (parts, sweep) = read("coordinator")
    rows = [(name, f"{1e3 * s:,.1f}") for name, s in parts.items() if name != "what"]
    return "\n\n".join(
        [
            table((f"with {header['trials']:,} waiting trials", "ms"), rows),
            f"{header['trials']:,} trials on {header['workers']:,} simulated workers took "
            f"{sweep['seconds']:,.0f} s of computing. {sweep['restarts']} coordinators and "
            f"{sweep['deaths']} attempts were killed on the way; {sweep['completed']:,} trials "
            f"completed and {sweep['trained_twice']} trained twice. Peak memory: "
            f"{sweep['memory_bytes'] / 2**20:.0f} MiB.",
            measured_on(header),
        ]
    )


def pages() -> str:
    header, found = read("pages")
    rows = [
        (
            f"{page['page']} {page['view']}".strip(),
            f"{page['cold_seconds']:.2f}",
            f"{page['warm_seconds']:.2f}",
            f"{page['largest_chart_bytes'] / 1e3:,.0f}",
        )
        for page in found
    ]
    browser = header["browser"]
    return "\n\n".join(
        [
            table(("page", "first visit, s", "again, s", "largest chart, KB"), rows),
            f"In a browser the page of the long run is complete after "
            f"{browser['first_seconds']:.1f} s on the first visit and after "
            f"{browser['again_seconds']:.1f} s on the next one.",
            measured_on(header),
        ]
    )


def _ratio(found: dict[str, float], form: str) -> str:
    """The median with its quartiles."""
    low, median, high = (form.format(found[name]) for name in ("low", "median", "high"))
    return f"{median} ({low} to {high})"
