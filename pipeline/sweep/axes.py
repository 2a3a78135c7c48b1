"""The axes of a sweep: those that name a setting, and those that name the place of an answer.

A setting is the rule with every other value that is chosen. A place is what an answer is given for,
such as an expert count. Trials with the same setting and place differ only in their seed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from evenload.pipeline.spec.search_space import value_at
from evenload.pipeline.spec.spec_file import sha256
from evenload.pipeline.spec.sweep import SEED, Combinations, SweepSpec
from evenload.pipeline.states import Stage

EXPERTS = "model.num_experts"
TOKENS = ("train.steps", "train.batch_sequences", "train.seq_len")
PER_OF_A_GRID = ("model", "data", "eval", *TOKENS)
UNNAMED = (SEED, "extends", "model.built")  # the last is counted from the rest of the model
ABSENT = "–"  # the value of a key that a trial lacks
LONGEST = 24  # characters of a value in a label
# Stands for the spec of a sweep that a former version stored and this one cannot read.
DEFAULTS = SweepSpec.model_construct(name="unknown", base={}, axes={EXPERTS: []})


class Trial(Protocol):
    """What names a trial. A `TrialRecord` has it."""

    @property
    def label(self) -> str: ...
    @property
    def spec(self) -> Mapping[str, Any]: ...
    @property
    def stage(self) -> Stage | None: ...


class Axes(NamedTuple):
    """The dotted keys that tell trials apart, beside the rule and the seed."""

    chosen: tuple[str, ...] = ()
    per: tuple[str, ...] = ()

    def setting(self, trial: Trial) -> str:
        """`sign 0.01 learning_rate=0.006`"""
        return " ".join([trial.label, *self._parts(self.chosen, trial)])

    def place(self, trial: Trial) -> str:
        """`16 experts, top_k=2`"""
        experts = value_of(trial.spec, EXPERTS)
        is_counted = experts != ABSENT and EXPERTS not in self.chosen
        others = self._parts([key for key in self.per if key != EXPERTS], trial)
        return ", ".join([*([f"{experts} experts"] * is_counted), *others]) or "all trials"

    def both(self, trial: Trial) -> str:
        return f"{self.setting(trial)}, {self.place(trial)}"

    def beside_experts(self, trial: Trial) -> str:
        """The setting with what its place has beside the expert count."""
        rest = self.place(trial).removeprefix(f"{value_of(trial.spec, EXPERTS)} experts")
        return f"{self.setting(trial)} {rest.lstrip(', ')}".rstrip()

    def name(self, trial: Trial) -> str:
        """Tells the trial apart from all others of its stage."""
        return f"{self.both(trial)}, seed {seed_of(trial)}"

    def _parts(self, keys: Sequence[str], trial: Trial) -> Iterator[str]:
        lasts = [key.rpartition(".")[2] for key in (*self.chosen, *self.per)]
        for key in keys:
            last = key.rpartition(".")[2]
            if (value := value_of(trial.spec, key)) != ABSENT:
                yield f"{last if lasts.count(last) == 1 else key}={_text(value)}"


def axes_of(trials: Iterable[Trial], spec: SweepSpec | None = None) -> Axes:
    """The fewest keys that tell all trials apart, those of the spec's axes first.

    A corpus that only the confirm stage has is no axis.
    """
    spec, rows = spec or DEFAULTS, list(trials)
    rows = [row for row in rows if row.stage is not Stage.CONFIRM] or rows
    leaves = [dict(leaves_of(row.spec)) for row in rows]
    groups: Sequence[Any] = [row.label for row in rows]
    per = _per(spec)
    found: dict[bool, list[str]] = {True: [], False: []}
    keys = _ordered(dict.fromkeys(key for tree in leaves for key in tree), spec)
    is_per = {key: any(is_below(key, part) for part in per) for key in keys}
    for key in sorted(keys, key=lambda key: not is_per[key]):
        finer = partition(
            [(group, tree.get(key, ABSENT)) for group, tree in zip(groups, leaves, strict=True)]
        )
        if len(set(finer)) > len(set(groups)):
            found[is_per[key]].append(key)
            groups = finer
    return Axes(chosen=tuple(found[False]), per=tuple(found[True]))


def leaves_of(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; lists are values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", tuple(value) if isinstance(value, list) else value


def value_of(tree: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key; ABSENT if there is none."""
    try:
        return value_at(tree, key)
    except KeyError:
        return ABSENT


def stage_of(trial: Trial) -> Stage:
    return trial.stage or Stage.TUNE


def seed_of(trial: Trial) -> int:
    return int(trial.spec["train"]["seed"])


def _per(spec: SweepSpec) -> tuple[str, ...]:
    if spec.answer.per is not None:
        return spec.answer.per
    if isinstance(spec.search, Combinations):
        return PER_OF_A_GRID
    return "data", *spec.search.cross


def _ordered(keys: Iterable[str], spec: SweepSpec) -> list[str]:
    """The keys below axes of the spec in its order, and then the others."""
    axes = list(spec.axes)
    named = [key for key in keys if not any(is_below(key, part) for part in UNNAMED)]

    def rank(key: str) -> int:
        return next((at for at, axis in enumerate(axes) if is_below(key, axis)), len(axes))

    return sorted(named, key=rank)


def is_below(key: str, part: str) -> bool:
    return key == part or key.startswith(f"{part}.")


def partition(values: Sequence[Any]) -> tuple[int, ...]:
    """For each value the number of its first occurrence among the different ones."""
    numbers: dict[Any, int] = {}
    return tuple(numbers.setdefault(value, len(numbers)) for value in values)


def _text(value: Any) -> str:
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 8]}…{sha256(text)[:6]}"
