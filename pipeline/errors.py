"""Messages that name the key, the value and the remedy."""

import json
from itertools import islice

from pydantic import ValidationError

# What pydantic calls by the names of Python's types.
WORDS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of keys",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_type": "must be an integer",
    "list_type": "must be a list",
    "model_attributes_type": "must be a mapping of keys",
    "model_type": "must be a mapping of keys",
    "string_type": "must be a text; write it in quotes",
    "tuple_type": "must be a list",
    "union_tag_not_found": "needs a `kind`; `evenload spec example` shows which there are",
}
VARIANTS = ("data", "tokenizer", "search", "stopping")  # keys whose value has a `kind`


class SpecError(ValueError):
    """Input that cannot be run. Commands print its message and exit with code 2."""


class OtherVersion(SpecError):
    """A stored sweep would get other trials, because its data or the code is not what it was.

    Args:     trials: how many it has; basis: what the store knows of their data and code
    """

    def __init__(self, sweep_id: str, trials: int, basis: dict[str, str]) -> None:
        super().__init__(f"sweep {sweep_id} has {trials} trials on other data or code")
        self.trials, self.basis = trials, basis


class CannotRun(SpecError):
    """A trial that the cluster could not run even if nothing else ran. Its sweep is paused."""


class DeviceBusy(SpecError):
    """A trial that fits on the GPU only when other programs leave it. It can be tried again."""


class StoreUnavailable(SpecError):
    """The database does not answer. Callers that can wait try again."""


class LeaseLost(Exception):
    """Another attempt at the trial has begun, so this one must stop and write nothing."""


class MirrorUnavailable(ConnectionError):
    """The object store of the mirror does not answer. The trial is not at fault."""


class PeerLost(Exception):
    """Another process that trains the same trial died. The trial can be tried again.

    Args:     preempted: whether that process's host was taken away
    """

    def __init__(self, reason: str, preempted: bool = False) -> None:
        super().__init__(reason)
        self.preempted = preempted


def first_message(error: ValidationError) -> str:
    """The first problem, as `key=value: what is wrong`."""
    first = error.errors(include_url=False)[0]
    key = ".".join(_keys(first["loc"]))
    message = WORDS.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be").replace("String should", "must")
    if first["type"] == "missing":
        return f"{key}: required; give it a value"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    if first["type"] == "extra_forbidden":
        message = "unknown key; check its spelling or remove it"
    return f"{key}={shown(first['input'])}: {message}"


def _keys(place: tuple[int | str, ...]) -> list[str]:
    """The keys on the way to a value, without the kinds by which pydantic tells variants apart."""
    return [
        str(part)
        for at, part in enumerate(place)
        if not ((at and place[at - 1] in VARIANTS) or (at > 1 and place[at - 2] == "streams"))
    ]


def reason_of(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, ValidationError):
        return first_message(error)
    text = str(error).partition("\n")[0]
    return (
        text
        if type(error) is ValueError or isinstance(error, SpecError)
        else f"{type(error).__name__}: {text}"
    )


def shown(value: object) -> str:
    """The value as JSON, cut to 200 characters."""
    text = "".join(islice(json.JSONEncoder(default=str).iterencode(value), 201))
    return text if len(text) <= 200 else text[:197] + "..."
