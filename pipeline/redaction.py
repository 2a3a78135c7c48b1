"""Keeps secrets out of logs, stored errors, MLflow and reports."""

import html
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import TextIO
from urllib.parse import quote, quote_plus, unquote

from pydantic import SecretStr

from evenload.pipeline.addresses import (
    HIDDEN,
    SHORTEST,
    SHORTEST_TOKEN,
    is_unclear,
    secrets_of,
)
from evenload.pipeline.escaping import for_log, for_terminal
from evenload.pipeline.settings import Settings

# Environment variables with such a name have secret values, those of paths excepted.
SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|TOKEN|SECRET|CREDENTIAL|CONNECTION_STRING|ACCESS_?KEY|API_?KEY"
    r"|ACCOUNT_?KEY|STORAGE_KEY|PRIVATE_?KEY|AUTHORIZATION|SAS$",
    re.IGNORECASE,
)
PATH_NAME = re.compile(r"(PATH|FILE|DIR|HOME|PARALLELISM)$", re.IGNORECASE)


def secrets(settings: Settings, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """What of the settings' URLs and of the environment is secret, longest first.

    Each secret comes in every spelling in which a library may repeat it: percent codes, JSON, HTML.
    """
    # Every setting, because a worker on another host has the settings and not the environment.
    given = dict(settings)
    found = {value.get_secret_value() for value in given.values() if isinstance(value, SecretStr)}
    urls = {value for value in (*found, *map(str, given.values())) if "://" in value}
    urls |= {
        str(value) for name, value in given.items() if value and name.endswith(("_url", "_uri"))
    }
    for name, value in environment.items():
        if SECRET_NAME.search(name) and not PATH_NAME.search(name) and len(value) >= SHORTEST:
            found.add(value)
        elif "://" in value:
            urls.add(value)
    webhooks = {environment.get("EVENLOAD_ALERT_URL", "")}
    if settings.alert_url is not None:
        webhooks.add(settings.alert_url.get_secret_value())
    for webhook in webhooks - {""}:  # who knows its path can write to it
        path = webhook.partition("://")[2].partition("/")[2]
        found |= {webhook, path} if len(path) >= SHORTEST_TOKEN else {webhook}
    for url in urls:
        found |= secrets_of(url)
    return _spelled(found)


def without_secrets_of(url: str, error: object) -> str:
    """The message of an error about this URL, without the secrets in the URL."""
    if is_unclear(url):
        return "its password or its port cannot be told; write @ in a password as %40, / as %2F"
    return redacted(str(error), _spelled(secrets_of(url)))


def _spelled(found: Iterable[str]) -> tuple[str, ...]:
    spelled = {spelling for secret in found for spelling in _spellings(secret)}
    return tuple(sorted(spelled, key=lambda secret: (-len(secret), secret)))


def _spellings(secret: str) -> Iterator[str]:
    for plain in (secret, unquote(secret)):
        yield from (plain, quote(plain), quote(plain, safe=""), quote_plus(plain))
        yield from (json.dumps(plain)[1:-1], repr(plain)[1:-1], html.escape(plain))


def redacted(text: str, hidden: Iterable[str]) -> str:
    """The text with every secret replaced by ***."""
    for secret in hidden:
        text = text.replace(secret, HIDDEN)
    return text


class RedactedFile(io.TextIOBase):
    """Writes text to a file without its secrets, if each is passed in one call of `write`."""

    def __init__(self, file: TextIO, hidden: tuple[str, ...]) -> None:
        self._file = file
        self._hidden = hidden

    def write(self, text: str) -> int:
        self._file.write(redacted(text, self._hidden))
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def start_logging(settings: Settings) -> None:
    """Logs to standard error from level INFO on, without secrets."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s", settings))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class RedactingFormatter(logging.Formatter):
    """Formats messages and tracebacks without secrets."""

    def __init__(self, pattern: str, settings: Settings) -> None:
        super().__init__(pattern)
        self._hidden = secrets(settings)

    def format(self, record: logging.LogRecord) -> str:
        """One line per record; only its traceback has more."""
        shown = copy(record)
        shown.msg, shown.args = for_log(record.getMessage()), ()
        return for_terminal(redacted(super().format(shown), self._hidden))
