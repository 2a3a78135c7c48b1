"""How to reproduce the figures: commands, the sweep, code and devices, and digests of trials."""

import yaml

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import number
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Block, Listing, Section, Table, Text
from evenload.pipeline.sweep.axes import seed_of, stage_of
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS

ORIGINS = {
    "commit": "commit",
    "device": "device",
    "core": "numerical core, one per rule",
    "corpus": "corpus digest",
    "version.evenload": "evenload",
    "version.torch": "torch",
    "version.triton": "triton",
    "version.ray": "ray",
    "version.numpy": "numpy",
}


SHOWN = 500


def reproduction(evidence: Evidence) -> Section:
    sweep_id = evidence.sweep.sweep_id
    name = f"{evidence.sweep.name}.yaml"
    blocks: list[Block] = [
        Listing(
            f"git checkout {_one(evidence, 'commit')}\nbash infra/install.sh\n"
            f"evenload sweep run {name}        # the file below; the id must be {sweep_id}\n"
            f"evenload report {sweep_id}",
            "Commands",
        ),
        Listing(_yaml(evidence), name),
    ]
    if evidence.origins:
        rows = [
            (title, ", ".join(evidence.origins[key]))
            for key, title in ORIGINS.items()
            if key in evidence.origins
        ]
        blocks.append(Table(("<", "<found"), rows, title="Code and devices"))
    else:
        blocks.append(Text("No attempt left a record of the code that ran it."))
    blocks.append(_trials(evidence))
    return Section("How to reproduce it", blocks)


def _one(evidence: Evidence, key: str) -> str:
    values = evidence.origins.get(key, ())
    return values[0].removesuffix("-dirty") if len(values) == 1 else "<commit, see below>"


def _yaml(evidence: Evidence) -> str:
    """The sweep as YAML, without values that are defaults."""
    if evidence.spec is None:
        return yaml.safe_dump(evidence.sweep.spec, sort_keys=False)
    content = evidence.spec.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=98).strip()


def _trials(evidence: Evidence) -> Table:
    rows = [
        (
            trial.digest,
            evidence.answer.axes.setting(trial),
            evidence.answer.axes.place(trial),
            str(seed_of(trial)),
            str(stage_of(trial)),
            str(trial.state),
            *(number(trial.figure(name), ",.4f") for name in (LOSS, IMBALANCE)),
        )
        for trial in evidence.trials[:SHOWN]
    ]
    columns = ("<digest", "<setting", "<place", "seed", "<stage", "<state")
    return Table(
        (*columns, *(METRICS[name].title for name in (LOSS, IMBALANCE))),
        rows,
        "A digest identifies everything that can change a trial's numbers: spec, corpus, code of "
        "the numerical core and version of torch. On a CPU, equal digests give the same "
        f"figures bit for bit.{_more(len(evidence.trials))}",
        title="Trials",
    )


def _more(trials: int) -> str:
    if trials <= SHOWN:
        return ""
    return f" These are the first {SHOWN} of {trials}; `evenload sweep status ID --json` lists all."
