"""The space that the axes of a sweep span: choices, and ranges of numbers in place of values.

A point has coordinates. The coordinate `key` is the number of a choice or a drawn number, and
`key[2].step_size` is a number drawn within choice 2 of that axis.
"""

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Self

from pydantic import ValidationError, model_validator

from evenload.pipeline.errors import first_message
from evenload.pipeline.spec.presets import PRESETS
from evenload.pipeline.spec.spec_file import Frozen

Coordinates = dict[str, int | float]
SIGNIFICANT_DIGITS = 3  # drawn numbers are rounded, so that labels can show them in full
PROBES = 3  # numbers by which a range is checked
PROBED_SHARE = 0.382  # position of a test value within a range; it is rarely a whole number


class Range(Frozen):
    """Numbers to draw from: `{low: 0.0003, high: 0.1, log: true}`."""

    low: float
    """Smallest number."""
    high: float
    """Largest number."""
    log: bool = False
    """Whether numbers are drawn evenly on a logarithmic scale."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low={self.low:g} must be below high={self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low={self.low:g} must be above 0 if log is true")
        return self

    def at(self, share: float) -> float:
        """The number at this share (0 to 1) of the way from low to high."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        number = low + share * (high - low)
        return self.rounded(math.exp(number) if self.log else number)

    def rounded(self, number: float) -> float:
        return min(self.high, max(self.low, float(f"{number:.{SIGNIFICANT_DIGITS}g}")))


Axes = Mapping[str, Range | list[Any]]


# Chooses the coordinate of this name: a number in the range, or one of so many choices.
Chooser = Callable[[str, Range | int], float]


def parse_axis(value: Any) -> Any:
    """A range, or the values of an axis, which may contain ranges.  Raises: ValueError"""
    if isinstance(value, Range):
        return value
    if isinstance(value, dict):
        return _range(value)
    if not isinstance(value, list) or not value:
        raise ValueError(
            "an axis needs a list of at least 1 value, or a range {low, high} to draw from"
        )
    for item in value:
        _ranges_in(item, "")  # which checks them
    return value


def has_ranges(value: Range | list[Any]) -> bool:
    return isinstance(value, Range) or any(_ranges_in(item, "") for item in value)


def num_corners(axes: Axes) -> int:
    """How many points `corners` gives, counted without making one."""
    return math.prod(
        PROBES
        if isinstance(axis, Range)
        else sum(PROBES ** len(_ranges_in(value, "")) for value in axis)
        for axis in axes.values()
    )


def probes(axes: Axes, at_most: int) -> Iterator[dict[str, Any]]:
    """All corners, or so many random ones of them if there are more."""
    if num_corners(axes) <= at_most:
        return corners(axes)
    rng = random.Random(0)

    def corner(name: str, span: Range | int) -> float:
        return rng.choice(_probes(span)) if isinstance(span, Range) else rng.randrange(span)

    return (choose(axes, corner)[1] for _ in range(at_most))


def choose(axes: Axes, chooser: Chooser) -> tuple[Coordinates, dict[str, Any]]:
    """The point that `chooser` chooses: its coordinates and the value of every axis."""
    coordinates: Coordinates = {}
    values: dict[str, Any] = {}

    def number(name: str, span: Range) -> float:
        coordinates[name] = span.rounded(chooser(name, span))
        return coordinates[name]

    for key, axis in axes.items():
        if isinstance(axis, Range):
            values[key] = number(key, axis)
        else:
            coordinates[key] = chosen = int(chooser(key, len(axis)))
            values[key] = _filled(axis[chosen], f"{key}[{chosen}]", number)
    return coordinates, values


def dimensions(axes: Axes) -> dict[str, Range | int]:
    """All coordinates that a point may have, with their ranges or numbers of choices."""
    found: dict[str, Range | int] = {}
    for key, axis in axes.items():
        if isinstance(axis, Range):
            found[key] = axis
            continue
        found[key] = len(axis)
        for number, value in enumerate(axis):
            found |= _ranges_in(value, f"{key}[{number}]")
    return found


def corners(axes: Axes) -> Iterator[dict[str, Any]]:
    """All combinations of choices, with three numbers per range; later axes vary fastest."""
    sides = [_probes(axis) if isinstance(axis, Range) else all_ends(axis) for axis in axes.values()]
    return (dict(zip(axes, point, strict=True)) for point in itertools.product(*sides))


def locate(axes: Axes, trial: Mapping[str, Any]) -> Coordinates | None:
    """The coordinates of a trial's spec; None if it is not a point of these axes."""
    coordinates: Coordinates = {}
    for key, axis in axes.items():
        options = [axis] if isinstance(axis, Range) else axis
        found: Any = None
        try:
            found = value_at(trial, key)
            below = keys_below(axes, key)
            matches = [_match(option, found, below) for option in options]
        except KeyError:
            matches = [_agreement_without(trial, key, option) for option in options]
        best = max(range(len(options)), key=lambda n: -1 if (m := matches[n]) is None else m)
        if matches[best] is None:
            return None
        if isinstance(axis, Range):
            coordinates[key] = found
        else:
            coordinates[key] = best
            coordinates |= _inner(axis[best], found, f"{key}[{best}]")
    return coordinates


def _agreement_without(trial: Mapping[str, Any], key: str, option: Any) -> int | None:
    """As `_match`, for `preset` and `kind: own`, which are not stored with a trial."""
    parent, _, name = key.rpartition(".")
    if name == "preset":
        own = value_at(trial, parent)
        return sum(own.get(field) == value for field, value in PRESETS[option].items())
    return 0 if option == "own" else None


def value_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value under a dotted key.  Raises: KeyError"""
    value: Any = tree
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise KeyError(key)
        value = value[part]
    return value


def without(tree: Mapping[str, Any], paths: list[list[str]]) -> dict[str, Any]:
    """The tree without the values under these paths."""
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        below = [path[1:] for path in paths if path[0] == key]
        if [] not in below:
            kept[key] = without(value, below) if below else value
    return kept


def _is_range(value: Any) -> bool:
    return isinstance(value, dict) and {"low", "high"} <= value.keys()


def _range(value: dict[str, Any]) -> Range:
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        raise ValueError(f"range: {first_message(error)}") from None


def _ends(value: Any) -> Iterator[Any]:
    """The value with its ranges replaced by test values, in all combinations."""
    if _is_range(value):
        yield from _probes(_range(value))
    elif isinstance(value, dict):
        for point in itertools.product(*(list(_ends(item)) for item in value.values())):
            yield dict(zip(value, point, strict=True))
    else:
        yield value


def _probes(span: Range) -> list[float]:
    return [span.low, span.at(PROBED_SHARE), span.high]


def settled(option: Any, found: Any, below: Collection[str] = (), path: str = "") -> Any:
    """The value of an axis as the trial `found` has it: "1e-4" becomes 0.0001.

    Equal values stay as they are written, because the sweep's id depends on them.

    Args:     below: keys within the value that other axes replace
    """
    if path in below or isinstance(option, Range) or _is_range(option) or option == found:
        return option
    if not isinstance(option, dict) or not isinstance(found, Mapping):
        return found
    return {
        key: settled(item, found[key], below, f"{path}.{key}" if path else key)
        if key in found
        else item
        for key, item in option.items()
    }


def keys_below(axes: Axes, key: str) -> set[str]:
    """The other axes that replace a part of this axis's values, relative to its key."""
    return {other.removeprefix(f"{key}.") for other in axes if other.startswith(f"{key}.")}


def all_ends(values: list[Any]) -> list[Any]:
    """The values with their ranges replaced by test values, in all combinations."""
    return [end for value in values for end in _ends(value)]


def _filled(value: Any, name: str, number: Callable[[str, Range], float]) -> Any:
    if _is_range(value):
        return number(name, _range(value))
    if isinstance(value, dict):
        return {key: _filled(item, f"{name}.{key}", number) for key, item in value.items()}
    return value


def _ranges_in(value: Any, name: str) -> dict[str, Range | int]:
    if _is_range(value):
        return {name: _range(value)}
    if not isinstance(value, dict):
        return {}
    parts = [_ranges_in(item, f"{name}.{key}") for key, item in value.items()]
    return {key: span for part in parts for key, span in part.items()}


def _match(option: Any, found: Any, below: set[str], path: str = "") -> int | None:
    """The number of values that agree; None if one differs. Values of other axes do not count."""
    if path in below:
        return 0
    if isinstance(option, Range) or _is_range(option):
        span = option if isinstance(option, Range) else _range(option)
        is_inside = isinstance(found, int | float) and span.low <= found <= span.high
        return 1 if is_inside else None
    if not isinstance(option, dict):
        return 1 if option == found else None
    if not isinstance(found, Mapping):
        return None
    total = 0
    for key, item in _without_preset(option).items():
        inner = f"{path}.{key}" if path else key
        agreed = _match(item, found.get(key), below, inner)
        if agreed is None:
            return None
        total += agreed
    return total


def _without_preset(option: dict[str, Any]) -> dict[str, Any]:
    given = {k: v for k, v in option.items() if k != "preset" and (k, v) != ("kind", "own")}
    preset = option.get("preset")
    return (PRESETS.get(preset, {}) if isinstance(preset, str) else {}) | given


def _inner(option: Any, found: Any, name: str) -> Coordinates:
    if _is_range(option):
        return {name: found}
    if not isinstance(option, dict):
        return {}
    parts = [_inner(item, found.get(key), f"{name}.{key}") for key, item in option.items()]
    return {key: value for part in parts for key, value in part.items()}
