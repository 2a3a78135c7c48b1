"""Keeps secrets out of logs, stored errors, MLflow and reports."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import TextIO
from urllib.parse import quote, unquote, urlsplit

from evenload.pipeline.settings import Settings

# Environment variables of the services that evenload uses. Their values are never shown.
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "POSTGRES_PASSWORD",
    "RAY_AUTH_TOKEN",
)
SHORTEST = 6  # characters; a shorter secret would match parts of ordinary words
HIDDEN = "***"


def secrets(settings: Settings, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The passwords in the settings' URLs and the values of SECRET_VARIABLES, longest first."""
    urls = (settings.database_url, settings.tracking_uri, settings.mirror_url)
    found = {password for url in urls if url for password in _passwords(url)}
    found |= {environment.get(name, "") for name in SECRET_VARIABLES}
    return tuple(sorted((s for s in found if len(s) >= SHORTEST), key=len, reverse=True))


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
        return redacted(super().format(record), self._hidden)


def _passwords(url: str) -> set[str]:
    """The passwords in the URL: as written, unquoted and quoted."""
    parts = urlsplit(url)
    given = [parts.password] if parts.password else []
    given += re.findall(r"(?:^|&)password=([^&]*)", parts.query)
    return {form for password in given for form in (password, unquote(password), quote(password))}
