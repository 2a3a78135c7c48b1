"""What a user may ask for as a sweep: a base trial, the axes to vary, and how to go about it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from evenload.pipeline.errors import first_message, shown
from evenload.pipeline.spec.data import DataSpec
from evenload.pipeline.spec.search_space import Range, corners, has_ranges, parse_axis
from evenload.pipeline.spec.spec_file import (
    Frozen,
    Int32,
    NonNegativeInt,
    PositiveInt,
    load,
    sha256,
)
from evenload.pipeline.spec.trial import TrialSpec

Axis = Annotated[Any, BeforeValidator(parse_axis)]
Share = Annotated[float, Field(ge=0, lt=1)]
SEED = "train.seed"
TRUSTED = {"trusted": True}
CROSSED = ("model.num_experts", SEED)


class GridSearch(Frozen):
    """Every combination, later axes fastest."""

    kind: Literal["grid"] = "grid"


class RandomSearch(Frozen):
    """Settings in random order, without repetition; from ranges, numbers drawn at random."""

    kind: Literal["random"] = "random"
    settings: PositiveInt | None = Field(
        default=None, description="how many; None is all of them, where there are no ranges"
    )
    seed: NonNegativeInt = 0
    cross: tuple[str, ...] = Field(
        default=CROSSED, description="axes at every value of which each setting is trained"
    )


class TpeSearch(Frozen):
    """Settings where a tree-structured Parzen estimator expects the best ones.

    Source:   Bergstra et al. 2011, NeurIPS 24; for two objectives Ozaki et al. 2022, JAIR 73
    """

    kind: Literal["tpe"] = "tpe"
    settings: PositiveInt = Field(default=32, description="how many in all")
    startup: PositiveInt = Field(
        default=8, description="settings spread evenly over the space before it proposes"
    )
    objectives: tuple[Literal["loss", "imbalance"], ...] = Field(
        default=("loss",), min_length=1, max_length=2
    )
    seed: NonNegativeInt = 0
    cross: tuple[str, ...] = Field(
        default=CROSSED, description="axes at every value of which each setting is trained"
    )


SearchSpec = Annotated[GridSearch | RandomSearch | TpeSearch, Field(discriminator="kind")]


class NoStopping(Frozen):
    """Every trial trains to its end."""

    kind: Literal["none"] = "none"


class Asha(Frozen):
    """Asynchronous successive halving on the held-out loss; what is stopped stays stopped.

    Source:   Li et al. 2018, arXiv:1810.05934
    """

    kind: Literal["asha"] = "asha"
    first_rung: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.25, description="share of the steps after which trials are first judged"
    )
    eta: Annotated[PositiveInt, Field(ge=2)] = Field(
        default=2, description="one in eta goes on from a rung; rungs lie a factor eta apart"
    )
    slack: NonNegativeFloat = Field(
        default=0.01, description="share above the best loss of a rung that is never stopped"
    )
    per: tuple[str, ...] = Field(default=CROSSED, description="keys whose values are judged apart")


class Extrapolate(Frozen):
    """Stops what will hardly reach the best: learning curves extrapolated by a power law.

    Source:   Domhan et al. 2015, IJCAI; here the error of the extrapolation is measured on the
              trials that finished
    """

    kind: Literal["extrapolate"] = "extrapolate"
    threshold: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.05, description="stop where a better final loss is less probable than this"
    )
    from_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.3, description="share of the steps before which nothing is stopped"
    )
    finished: Annotated[PositiveInt, Field(ge=2)] = Field(
        default=3, description="finished trials before anything is stopped"
    )
    slack: NonNegativeFloat = Field(
        default=0.01, description="share above the best final loss that counts as reaching it"
    )
    per: tuple[str, ...] = Field(default=CROSSED, description="keys whose values are judged apart")


StoppingSpec = Annotated[NoStopping | Asha | Extrapolate, Field(discriminator="kind")]


class Objective(Frozen):
    """What makes a setting good: little imbalance at (nearly) the least loss, within bounds."""

    loss_tolerance: Share = Field(
        default=0.01, description="share above the least loss that counts as equal to it"
    )
    constraints: dict[
        Literal["max_vio", "max_vio_global", "idle_frac", "dead_tenth"], NonNegativeFloat
    ] = Field(default={}, description="upper bounds on figures; who breaks one is not recommended")
    target_loss: PositiveFloat | None = Field(
        default=None,
        description="held-out loss, nats per token, to which time and tokens are counted; None is "
        "where training without balancing ends",
    )


class ConfirmSpec(Frozen):
    """The best settings of the tune stage, and the control, trained again with fresh seeds."""

    top: PositiveInt = Field(default=3, description="settings, beside the control")
    per_rule: PositiveInt | None = Field(
        default=None,
        description="settings of one rule at most; 1 compares rules, each at its best; None is any",
    )
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    data: DataSpec | None = Field(default=None, description="another corpus; None is the same")


class SweepSpec(Frozen):
    """A base trial and the axes to vary.

    `axes` maps a dotted key of the trial to its values, e.g. `model.num_experts: [16, 32]` or
    `balancer: [{kind: none}, {kind: sign, step_size: 0.01}]`. Later axes vary fastest. Where the
    search draws numbers, `{low, high, log}` may stand for the values or inside one.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    base: dict[str, Any]
    axes: dict[str, Axis] = Field(min_length=1)
    search: SearchSpec = GridSearch()
    stopping: StoppingSpec = NoStopping()
    objective: Objective = Objective()
    confirm: ConfirmSpec | None = None
    max_retries: Annotated[Int32, Field(ge=0)] = Field(
        default=2, description="workers that a trial may lose before it is given up"
    )
    max_preemptions: Annotated[Int32, Field(ge=0)] = Field(
        default=20, description="times a trial may be preempted before it is given up"
    )
    priority: Int32 = Field(default=0, description="sweeps of a higher priority start first")
    stacking: Literal["auto", "off"] = Field(
        default="auto", description="train trials of equal shape together where that is faster"
    )

    @classmethod
    def trusted(cls, stored: dict[str, Any]) -> Self:
        """The spec that a store holds. Its trials were checked before; a large grid takes long.

        Raises:   ValidationError: it was stored by a version whose specs were others
        """
        return cls.model_validate(stored, context=TRUSTED)

    @model_validator(mode="after")
    def _every_trial_is_valid(self, info: ValidationInfo) -> Self:
        if info.context == TRUSTED:
            return self
        trials = self.expand()
        self._search_can_draw()
        if not isinstance(self.stopping, NoStopping) and any(
            trial.eval.every_steps is None for trial in trials
        ):
            raise ValueError(
                f"stopping.kind={self.stopping.kind!r} reads held-out losses while trials train; "
                "set base.eval.every_steps"
            )
        if self.confirm is not None:
            self._confirm_is_fresh(self.confirm, trials)
        return self

    def _search_can_draw(self) -> None:
        search = self.search
        drawn = [key for key, axis in self.axes.items() if has_ranges(axis)]
        if isinstance(search, GridSearch):
            if drawn:
                raise ValueError(
                    f"axes.{drawn[0]} holds a range; a grid takes values: list them, or choose "
                    "search.kind random or tpe"
                )
            return
        if crossed := [key for key in drawn if key in search.cross]:
            raise ValueError(f"axes.{crossed[0]} is crossed with every setting; list its values")
        if isinstance(search, RandomSearch) and search.settings is None and drawn:
            raise ValueError(f"axes.{drawn[0]} holds a range; say how many: search.settings")
        if isinstance(search, TpeSearch) and not self.searched_axes():
            raise ValueError("every axis is crossed: there is nothing for tpe to search")

    @staticmethod
    def _confirm_is_fresh(confirm: ConfirmSpec, trials: list[TrialSpec]) -> None:
        tuned = {trial.train.seed for trial in trials}
        if stale := sorted(tuned & set(confirm.seeds)):
            raise ValueError(
                f"confirm.seeds holds {stale[0]}, a seed of the tune stage: its luck is what "
                "chose the settings; take others"
            )
        if len(set(confirm.seeds)) < len(confirm.seeds):
            raise ValueError("confirm.seeds names a seed twice")
        if confirm.data is not None:
            for trial in trials:
                with_data(trial, confirm.data)

    def searched_axes(self) -> dict[str, Range | list[Any]]:
        """The axes on which settings differ; all of a grid's."""
        crossed = () if isinstance(self.search, GridSearch) else self.search.cross
        return {key: axis for key, axis in self.axes.items() if key not in crossed}

    def crossed_axes(self) -> dict[str, list[Any]]:
        """The axes at every value of which each setting is trained; none of a grid's."""
        searched = self.searched_axes()
        return {key: axis for key, axis in self.axes.items() if key not in searched}

    def tuned_beside_the_balancer(self) -> tuple[str, ...]:
        """Dotted keys that tell settings apart where the balancer does not."""
        if isinstance(self.search, GridSearch):
            return ()
        return tuple(
            key for key in self.searched_axes() if key != "balancer" and key[:9] != "balancer."
        )

    def expand(self) -> list[TrialSpec]:
        """The trials of the grid in axis order, without duplicates; of ranges a few numbers.

        Raises:   ValueError: a combination that is no valid trial, with its axis values
        """
        return unique(self.trial_at(point) for point in corners(self.axes))

    def trial_at(self, point: dict[str, Any]) -> TrialSpec:
        """The base trial with the axes at these values.

        Raises:   ValueError: no valid trial, with the values
        """
        tree = self.base
        for key in self.axes:
            tree = _with_value(tree, key.split("."), point[key], key)
        try:
            return TrialSpec.model_validate(tree)
        except ValidationError as error:
            raise ValueError(f"at {shown(point)}: {first_message(error)}") from None

    def sweep_id(self) -> str:
        """The name and six hex digits of the content: submitting the same sweep twice is once."""
        return f"{self.name}-{sha256(self.model_dump(mode='json'))[:6]}"


def unique(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """The trials without duplicates, in their order."""
    found: dict[str, TrialSpec] = {}
    for trial in trials:
        found.setdefault(sha256(trial.model_dump(mode="json")), trial)
    return list(found.values())


def with_data(trial: TrialSpec, data: DataSpec) -> TrialSpec:
    """The trial on another corpus.  Raises: ValueError: it does not fit"""
    try:
        return TrialSpec.model_validate(trial.model_dump() | {"data": data.model_dump()})
    except ValidationError as error:
        raise ValueError(f"confirm.data: {first_message(error)}") from None


def load_sweep(path: Path) -> SweepSpec:
    """The sweep that a YAML file describes.  Raises: SpecError"""
    return load(SweepSpec, path)


def _with_value(tree: Any, path: list[str], value: Any, key: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ValueError(f"axes.{key}: {path[0]!r} lies inside a value that holds no keys")
    head, rest = path[0], path[1:]
    return tree | {head: _with_value(tree.get(head, {}), rest, value, key) if rest else value}
