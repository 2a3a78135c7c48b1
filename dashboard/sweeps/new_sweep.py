"""Builds a sweep from a form or a file, validates it and estimates its cost. It starts nothing."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import pandas as pd
from pydantic import ValidationError

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.figures.wording import scaled
from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.yaml_text import mapping_of_yaml
from evenload.pipeline.sweep.search import propose
from evenload.pipeline.sweep.trial_plan import TrialPlan, plan_trial

Number = TypeVar("Number", int, float)
Tree = dict[str, Any]
MAX_TRIALS = 5000  # largest number of trials that a page expands
MAX_FILE_BYTES = 200_000
CURVE_POINTS = 20  # points of a learning curve, if a stopping policy needs it


class Asked(NamedTuple):
    """The values of the form."""

    name: str
    preset: str
    rules: Sequence[str]
    step_sizes: Sequence[float]  # for every rule with a step size
    experts: Sequence[int]
    seeds: int
    steps: int
    batch_sequences: int
    seq_len: int
    stopping: str  # kind of the stopping policy
    confirm_seeds: int  # 0 means no confirm stage


def tree_of(asked: Asked) -> Tree:
    """The content of the sweep's YAML file."""
    train = {
        "steps": asked.steps,
        "batch_sequences": asked.batch_sequences,
        "seq_len": asked.seq_len,
        "warmup_steps": asked.steps // 20,
    }
    base: Tree = {"model": {"preset": asked.preset}, "train": train, "balancer": {"kind": "none"}}
    tree: Tree = {
        "name": asked.name,
        "base": base,
        "axes": {
            "model.num_experts": list(asked.experts),
            "train.seed": list(range(asked.seeds)),
            "balancer": balancers(asked.rules, asked.step_sizes),
        },
    }
    if asked.stopping != "none":
        base["eval"] = {"every_steps": max(1, asked.steps // CURVE_POINTS)}
        tree["stopping"] = {"kind": asked.stopping}
    if asked.confirm_seeds:
        tree["confirm"] = {"seeds": [asked.seeds + n for n in range(asked.confirm_seeds)]}
    return tree


def balancers(rules: Sequence[str], step_sizes: Sequence[float]) -> list[Tree]:
    """Every rule, once per step size if it has one."""
    found: list[Tree] = []
    for kind in rules:
        name = next((n for n in ("step_size", "coefficient") if n in BALANCERS[kind].params), None)
        if name == "step_size" and not BALANCERS[kind].control and step_sizes:
            found += [{"kind": kind, name: float(size)} for size in step_sizes]
        else:
            found.append({"kind": kind})
    return found


def numbers(name: str, values: Sequence[Any], kind: Callable[[Any], Number]) -> list[Number]:
    """The chosen or typed numbers.  Raises: SpecError: a value is not a number"""
    found = []
    for value in values:
        try:
            found.append(kind(value))
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise SpecError(f"{name}: {str(value)!r} is not {what}") from None
    return found


def parsed(content: bytes) -> Tree:
    """The content of an uploaded file.  Raises: SpecError: too large, or not a YAML mapping"""
    if len(content) > MAX_FILE_BYTES:
        raise SpecError(
            f"{len(content):,} bytes are too many for a sweep; use at most {MAX_FILE_BYTES:,}"
        )
    return mapping_of_yaml(content, "the file")


def checked(tree: Tree) -> SweepSpec:
    """The sweep.  Raises: SpecError: it is not valid or has too many trials"""
    axes = tree.get("axes")
    if isinstance(axes, dict):
        count = math.prod(len(axis) for axis in axes.values() if isinstance(axis, list))
        if count > MAX_TRIALS:
            raise SpecError(
                f"axes: {count:,} combinations are too many for this page (at most "
                f"{MAX_TRIALS:,}); use `evenload sweep submit`"
            )
    try:
        return SweepSpec.model_validate(tree)
    except ValidationError as error:
        raise SpecError(first_message(error)) from None


def plan(spec: SweepSpec) -> list[TrialPlan]:
    """The plans of the first trials of the sweep."""
    return [plan_trial(trial) for trial in propose(spec)]


def plan_table(plans: Sequence[TrialPlan]) -> pd.DataFrame:
    """One row per trial, in the order in which they start."""
    columns = {
        "Rule": [plan.label for plan in plans],
        "Experts": [plan.num_experts for plan in plans],
        "Seed": [plan.seed for plan in plans],
        "Parameters": [scaled(plan.parameters) for plan in plans],
        "Active": [scaled(plan.active_parameters) for plan in plans],
        "Tokens": [scaled(plan.tokens) for plan in plans],
        "Compute": [scaled(plan.train_flops, "FLOP") for plan in plans],
        "Memory": [scaled(plan.memory_bytes, "B") for plan in plans],
        "Disk": [scaled(plan.disk_bytes, "B") for plan in plans],
    }
    return pd.DataFrame(columns)


def what_follows(spec: SweepSpec) -> str:
    """A sentence on what the plan leaves out because it depends on results."""
    parts = []
    if spec.search.kind == "tpe":
        parts.append("the search proposes further settings from the results")
    if spec.search.kind == "racing":
        parts.append("settings that are not shown to be out get more seeds, round by round")
    if spec.stopping.kind != "none":
        parts.append(f"{spec.stopping.kind} stops weak trials early, which lowers the cost")
    if spec.confirm is not None:
        parts.append(
            f"the best {spec.confirm.top} settings are trained again with "
            f"{len(spec.confirm.seeds)} fresh seeds"
        )
    return "Then " + "; ".join(parts) + "." if parts else ""
