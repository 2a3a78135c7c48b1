"""The spec of a sweep: a base trial, axes, a search, an objective and a confirm stage."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from evenload.pipeline.errors import first_message, shown
from evenload.pipeline.spec import search_space as space
from evenload.pipeline.spec.data import DataSpec
from evenload.pipeline.spec.spec_file import (
    Frozen,
    Int32,
    NonNegativeInt,
    PositiveInt,
    load,
    sha256,
)
from evenload.pipeline.spec.trial import TrialSpec

Axis = Annotated[
    Any,
    BeforeValidator(space.parse_axis),
    WithJsonSchema({"anyOf": [{"type": "array", "minItems": 1}, space.Range.model_json_schema()]}),
]
Share = Annotated[float, Field(ge=0, lt=1)]
SEED = "train.seed"
TRUSTED = {"trusted": True}
MAX_TRIALS = 100_000  # that a sweep lists
PROBED_IN_FULL = 50  # of them, also whether their results will be found
PROBED = 1000  # points of a space to search that are checked
CROSSED = ("model.num_experts", SEED)


class GridSearch(Frozen):
    """Every combination of the axes; later axes vary fastest."""

    kind: Literal["grid"] = "grid"


class RandomSearch(Frozen):
    """Settings in random order, without repetition; from ranges, numbers are drawn at random."""

    kind: Literal["random"] = "random"
    settings: PositiveInt | None = None
    """Number of settings; null: all of them. Required if an axis holds a range."""
    seed: NonNegativeInt = 0
    """Seed of the order and of the drawn numbers."""
    cross: tuple[str, ...] = CROSSED
    """Axes that are not searched: each setting is trained at every value of them."""


class TpeSearch(Frozen):
    """Settings where a tree-structured Parzen estimator expects the best ones.

    Source:   Bergstra et al. 2011, NeurIPS 24; for two objectives Ozaki et al. 2022, JAIR 73
    """

    kind: Literal["tpe"] = "tpe"
    settings: PositiveInt = 32
    """Number of settings in all."""
    startup: PositiveInt = 8
    """Number of settings that are spread evenly over the space before the estimator proposes."""
    objectives: tuple[Literal["loss", "imbalance"], ...] = Field(
        default=("loss",), min_length=1, max_length=2
    )
    """What the estimator minimises: loss, imbalance, or both."""
    seed: NonNegativeInt = 0
    """Seed of the proposals."""
    cross: tuple[str, ...] = CROSSED
    """Axes that are not searched: each setting is trained at every value of them."""


class RacingSearch(Frozen):
    """Every combination of the axes, with more and more seeds for those that may still be named.

    Source:   Birattari et al. 2002; see pipeline/sweep/racing.py
    """

    kind: Literal["racing"] = "racing"
    block: PositiveInt = 3
    """Number of fresh seeds of each round, from `base.train.seed` on."""
    rounds: Annotated[PositiveInt, Field(ge=2)] = 4
    """Most rounds; every one has an equal share of the probability of a wrong statement."""

    @property
    def seeds(self) -> int:
        """The most seeds of a setting."""
        return self.block * self.rounds


Combinations = GridSearch | RacingSearch  # of the values of all axes
SearchSpec = Annotated[Combinations | RandomSearch | TpeSearch, Field(discriminator="kind")]


class NoStopping(Frozen):
    """Every trial trains to its end."""

    kind: Literal["none"] = "none"


class Asha(Frozen):
    """Asynchronous successive halving on the held-out loss. A stopped trial stays stopped.

    Source:   Li et al. 2018, arXiv:1810.05934
    """

    kind: Literal["asha"] = "asha"
    first_rung: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the steps after which trials are judged for the first time."""
    eta: Annotated[PositiveInt, Field(ge=2)] = 2
    """One trial in eta continues after a rung; the next rung is at eta times as many steps."""
    slack: NonNegativeFloat = 0.01
    """Trials whose loss is at most this share above the best one of the rung are not stopped."""
    per: tuple[str, ...] = CROSSED
    """Trials are only compared if they have the same values of these keys."""


class Extrapolate(Frozen):
    """Extrapolates learning curves by a power law and stops trials that will hardly be the best.

    Source:   Domhan et al. 2015, IJCAI. Differs: the error of the extrapolation is measured on the
              trials that have finished.
    """

    kind: Literal["extrapolate"] = "extrapolate"
    threshold: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """A trial is stopped if the probability that it reaches the best loss is below this."""
    from_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """No trial is stopped before this share of its steps."""
    finished: Annotated[PositiveInt, Field(ge=2)] = 3
    """No trial is stopped before this many trials have finished."""
    slack: NonNegativeFloat = 0.01
    """A final loss at most this share above the best one counts as reaching it."""
    per: tuple[str, ...] = CROSSED
    """Trials are only compared if they have the same values of these keys."""


StoppingSpec = Annotated[NoStopping | Asha | Extrapolate, Field(discriminator="kind")]


class Objective(Frozen):
    """What makes a setting good: little imbalance at a loss near the least one, within bounds."""

    loss_tolerance: Share = 0.01
    """The margin: a loss at most this share above the least one is good enough."""
    constraints: dict[
        Literal["max_vio", "max_vio_global", "idle_frac", "dead_tenth"], NonNegativeFloat
    ] = Field(default={})
    """Upper bounds on figures; a setting that breaks a bound is not named."""
    target_loss: PositiveFloat | None = None
    """Held-out loss in nats per token; the answer reports how long each setting takes to reach it.
    null: the final loss of training without balancing."""


class AnswerSpec(Frozen):
    """For what the sweep gives an answer of its own. All else that varies, but the seed, is chosen.

    So by default every rule competes at its best learning rate, at each expert count.
    """

    per: tuple[str, ...] | None = None
    """Dotted keys, or parts of the trial, with an answer for each of their values. null: for a grid
    the model, the data and the number of tokens; otherwise the data and `search.cross`."""
    one_for_all: bool = False
    """Also look for one setting that is good at every one of these values."""


class ConfirmSpec(Frozen):
    """Trains the best settings again with fresh seeds, beside training without balancing."""

    top: PositiveInt = 3
    """Number of settings for each answer, without the control."""
    per_rule: PositiveInt | None = None
    """Most settings of the same rule; 1 compares rules, each at its best. null: no limit."""
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    """Seeds that no trial of the search had."""
    data: DataSpec | None = None
    """Another corpus to confirm on; null: the corpus of the search."""


class SweepLimits(Frozen):
    """What a sweep and its trials may take. It can be changed; the sweep keeps its id."""

    hours: PositiveFloat | None = None
    """Hours from the start of its first trial, or from the last resume; null: no limit."""
    then: Literal["finish", "pause"] = "finish"
    """What happens after them. finish: running trials end with a checkpoint, trained ones are
    evaluated, and the answer is that of what there is. pause: the sweep waits to be resumed."""
    trial_hours: PositiveFloat | None = None
    """Hours that workers may hold a trial, as `limits.hours` of a trial; null: what `base` says."""


class Extension(Frozen):
    """Seeds that `evenload sweep extend --seeds` added to a finished sweep."""

    seeds: Annotated[PositiveInt, Field(le=10_000)]
    """Number of further seeds."""
    top: PositiveInt | None = None
    """Only so many of the best settings of each answer are confirmed with them, beside training
    without balancing; null: every setting gets them."""


class SweepSpec(Frozen):
    """A base trial and the axes to vary."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Name; the sweep's id is the name and six digits of a hash of the content."""
    base: dict[str, Any]
    """A trial, without the keys that the axes fill in."""
    axes: dict[str, Axis] = Field(min_length=1)
    """For each dotted key of the trial a list of values, or a range `{low, high, log}` of numbers.
    A value can be a mapping, which can hold ranges. Later axes vary fastest."""
    search: SearchSpec = GridSearch()
    """Which settings of the axes are trained, and in which order."""
    stopping: StoppingSpec = NoStopping()
    """When trials without prospects are stopped early."""
    objective: Objective = Objective()
    confirm: ConfirmSpec | None = None
    """Train the best settings again with fresh seeds; null: the search alone is the answer."""
    answer: AnswerSpec = AnswerSpec()
    limits: SweepLimits = SweepLimits()
    extended: tuple[Extension, ...] = ()
    """What `evenload sweep extend --seeds` added, in order. The sweep keeps its id."""
    max_retries: Annotated[Int32, Field(ge=0)] = 2
    """A trial is given up when it has lost its worker more often than this."""
    max_preemptions: Annotated[Int32, Field(ge=0)] = 20
    """A trial is given up when it was preempted more often than this."""
    priority: Int32 = 0
    """Of one submitter's sweeps those of a higher priority start first."""
    stacking: Literal["auto", "off"] = "auto"
    """auto: trials that differ only in rule, step size and seed train together as one program if
    that is faster. off: every trial trains alone, and a sweep repeats bit for bit on a CPU."""

    @classmethod
    def trusted(cls, stored: dict[str, Any]) -> Self:
        """A stored spec. Its trials are not checked again, which takes long for a large grid.

        Raises:   ValidationError: a former version with other specs stored it
        """
        return cls.model_validate(stored, context=TRUSTED)

    @model_validator(mode="after")
    def _every_trial_is_valid(self, info: ValidationInfo) -> Self:
        if info.context == TRUSTED:
            return self
        self._search_can_draw()
        self._can_be_listed()
        at_most = None if isinstance(self.search, Combinations) else PROBED
        trials = unique(map(self.trial_at, space.probes(self.axes, at_most or MAX_TRIALS)))
        self._settle_axes()
        self._results_can_be_found(trials)
        if not isinstance(self.stopping, NoStopping) and any(
            trial.eval.every_steps is None for trial in trials[:PROBED_IN_FULL]
        ):
            raise ValueError(
                f"stopping.kind={self.stopping.kind!r} reads held-out losses while trials train; "
                "set base.eval.every_steps"
            )
        if self.confirm is not None:
            self._confirm_is_fresh(self.confirm, trials)
        return self

    def _can_be_listed(self) -> None:
        """Counts before anything is built."""
        asked = num_settings(self) * space.num_corners(self.crossed_axes())
        if isinstance(self.search, RacingSearch):
            asked *= self.search.seeds
        if asked > MAX_TRIALS:
            raise ValueError(
                f"axes and search ask for {asked:,} trials, and a sweep lists at most "
                f"{MAX_TRIALS:,}; give fewer values, or set search.kind random or tpe and a lower "
                "search.settings"
            )

    def _settle_axes(self) -> None:
        """Replaces values of axes by what trials make of them, by which results are found again."""
        first = next(space.probes(self.axes, 1))
        for key, axis in self.axes.items():
            if isinstance(axis, space.Range):
                continue
            below = space.keys_below(self.axes, key)
            for place, option in enumerate(axis):
                if isinstance(option, int | float):  # a trial has an equal number
                    continue
                point = {key: next(iter(space.all_ends([option])))}
                tree = self.trial_at(first | point).model_dump(mode="json")
                with suppress(KeyError):  # a preset, which is not stored
                    axis[place] = space.settled(option, space.value_at(tree, key), below)

    def _results_can_be_found(self, trials: list[TrialSpec]) -> None:
        """The search reads from a trial which setting it is; otherwise it would lose results."""
        axes = self.searched_axes()
        if isinstance(self.search, TpeSearch) and any(
            space.locate(axes, trial.model_dump(mode="json")) is None
            for trial in trials[:PROBED_IN_FULL]
        ):
            raise ValueError(
                f"axes {', '.join(axes)}: a trial does not show which of these values it has, so "
                "tpe cannot learn from it; use search.kind random, or axes of single keys"
            )

    def _search_can_draw(self) -> None:
        search = self.search
        drawn = [key for key, axis in self.axes.items() if space.has_ranges(axis)]
        if isinstance(search, RacingSearch) and SEED in self.axes:
            raise ValueError(f"axes.{SEED}: a race adds seeds by itself; remove the axis")
        if isinstance(search, Combinations):
            if drawn:
                what = "a grid" if isinstance(search, GridSearch) else "a race"
                raise ValueError(
                    f"axes.{drawn[0]} holds a range, but {what} takes values; list them, or choose "
                    "search.kind random or tpe"
                )
            return
        if crossed := [key for key in drawn if key in search.cross]:
            raise ValueError(f"axes.{crossed[0]} is crossed with every setting; list its values")
        if isinstance(search, RandomSearch) and search.settings is None and drawn:
            raise ValueError(f"axes.{drawn[0]} holds a range; set search.settings to their number")
        if isinstance(search, TpeSearch) and not self.searched_axes():
            raise ValueError("every axis is crossed, so tpe has no axis to search; add one")

    def _confirm_is_fresh(self, confirm: ConfirmSpec, trials: list[TrialSpec]) -> None:
        tuned = self.tune_seeds(trials)
        if stale := sorted(tuned & set(confirm.seeds)):
            raise ValueError(
                f"confirm.seeds holds {stale[0]}, a seed of the tune stage, whose luck has chosen "
                "the settings; choose other seeds"
            )
        if len(set(confirm.seeds)) < len(confirm.seeds):
            raise ValueError("confirm.seeds names a seed twice; remove one")
        if confirm.data is not None:
            for trial in trials:
                with_data(trial, confirm.data)

    def tune_seeds(self, trials: Iterable[TrialSpec]) -> set[int]:
        """The seeds that the search may use, given its first trials."""
        seeds = {trial.train.seed for trial in trials}
        if isinstance(self.search, RacingSearch):
            seeds.update(self.racing_seeds(1, self.search.rounds))
        return seeds

    def racing_seeds(self, first: int, last: int) -> range:
        """The seeds of these rounds of a race, counted from 1."""
        assert isinstance(self.search, RacingSearch)
        start, block = int(self.base.get("train", {}).get("seed", 0)), self.search.block
        return range(start + (first - 1) * block, start + last * block)

    def searched_axes(self) -> dict[str, space.Range | list[Any]]:
        """The axes on which settings differ; for a grid and a race all axes."""
        search = self.search
        crossed = () if isinstance(search, Combinations) else search.cross
        return {key: axis for key, axis in self.axes.items() if key not in crossed}

    def crossed_axes(self) -> dict[str, list[Any]]:
        """The axes whose every value is combined with each setting; for a grid none."""
        searched = self.searched_axes()
        return {key: axis for key, axis in self.axes.items() if key not in searched}

    def expand(self) -> list[TrialSpec]:
        """The trials of the grid in axis order, without duplicates. Ranges give three numbers.

        Raises:   ValueError: a combination is not a valid trial; the message has its axis values
        """
        return unique(self.trial_at(point) for point in space.corners(self.axes))

    def trial_at(self, point: dict[str, Any]) -> TrialSpec:
        """The base trial with the axes at these values.  Raises: ValueError: it is not valid"""
        tree = self.base
        for key in self.axes:
            tree = _with_value(tree, key.split("."), point[key], key)
        try:
            return TrialSpec.model_validate(tree)
        except ValidationError as error:
            raise ValueError(f"at {shown(point)}: {first_message(error)}") from None

    def limits_to_store(self) -> SweepLimits:
        """Its limits, with that of the base trial if it names none of its own for trials."""
        of_base = (self.base.get("limits") or {}).get("hours")
        found = {"trial_hours": of_base} if self.limits.trial_hours is None else {}
        return self.limits.model_copy(update=found)

    def sweep_id(self) -> str:
        """The name and six hex digits of the content. Equal sweeps have the same id.

        Extensions and limits do not change it, and neither does a section `answer` without content,
        which older sweeps lack.
        """
        left_out = {"extended", "limits"} | ({"answer"} if self.answer == AnswerSpec() else set())
        return f"{self.name}-{sha256(self.model_dump(mode='json', exclude=left_out))[:6]}"


def num_settings(spec: SweepSpec) -> int:
    """The number of settings that the search asks for; for a grid that of its points."""
    search, axes = spec.search, spec.searched_axes()
    if isinstance(search, Combinations) or search.settings is None:
        return space.num_corners(axes)
    if any(map(space.has_ranges, axes.values())):
        return search.settings
    return min(search.settings, space.num_corners(axes))


def unique(trials: Iterable[TrialSpec]) -> list[TrialSpec]:
    """The trials without duplicates, in their order."""
    found: dict[str, TrialSpec] = {}
    for trial in trials:
        found.setdefault(trial.model_dump_json(), trial)
    return list(found.values())


def with_seed(trial: TrialSpec, seed: int) -> TrialSpec:
    """The trial with another seed, from its beginning."""
    train = trial.train.model_copy(update={"seed": seed})
    return trial.model_copy(update={"train": train, "extends": None})


def with_data(trial: TrialSpec, data: DataSpec) -> TrialSpec:
    """The trial with another corpus.  Raises: ValueError: the model does not fit it"""
    try:
        return TrialSpec.model_validate(trial.model_dump() | {"data": data.model_dump()})
    except ValidationError as error:
        raise ValueError(f"confirm.data: {first_message(error)}") from None


def load_sweep(path: Path) -> SweepSpec:
    """The sweep that a YAML file describes.  Raises: SpecError"""
    return load(SweepSpec, path)


def _with_value(tree: Any, path: list[str], value: Any, key: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ValueError(f"axes.{key}: {path[0]!r} is below a value that has no keys; remove it")
    head, rest = path[0], path[1:]
    return tree | {head: _with_value(tree.get(head, {}), rest, value, key) if rest else value}
