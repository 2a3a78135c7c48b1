"""Secrets stay out of what is written down: logs, errors in the store, MLflow, reports."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import TextIO
from urllib.parse import quote, unquote, urlsplit

from evenload.pipeline.settings import Settings

# Environment variables whose values are never shown; those of the services that evenload uses.
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
SHORTEST = 6  # characters: what is shorter stands in every text and hides nothing
HIDDEN = "***"


def secrets(settings: Settings, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Passwords in the settings' URLs and the values of SECRET_VARIABLES, longest first."""
    urls = (settings.database_url, settings.tracking_uri, settings.mirror_url)
    found = {password for url in urls if url for password in _passwords(url)}
    found |= {environment.get(name, "") for name in SECRET_VARIABLES}
    return tuple(sorted((s for s in found if len(s) >= SHORTEST), key=len, reverse=True))


def redacted(text: str, hidden: Iterable[str]) -> str:
    """The text with every secret as ***."""
    for secret in hidden:
        text = text.replace(secret, HIDDEN)
    return text


class RedactedFile(io.TextIOBase):
    """Passes text on to a file, without the secrets that come in one piece."""

    def __init__(self, file: TextIO, hidden: tuple[str, ...]) -> None:
        self._file = file
        self._hidden = hidden

    def write(self, text: str) -> int:
        self._file.write(redacted(text, self._hidden))
        return len(text)

    def flush(self) -> None:
        self._file.flush()


def start_logging(settings: Settings) -> None:
    """Logs of this process go to standard error from INFO on, without secrets."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s", settings))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class RedactingFormatter(logging.Formatter):
    """Messages and tracebacks without secrets."""

    def __init__(self, pattern: str, settings: Settings) -> None:
        super().__init__(pattern)
        self._hidden = secrets(settings)

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record), self._hidden)


def _passwords(url: str) -> set[str]:
    """As they stand in the URL and as they are meant."""
    parts = urlsplit(url)
    given = [parts.password] if parts.password else []
    given += re.findall(r"(?:^|&)password=([^&]*)", parts.query)
    return {form for password in given for form in (password, unquote(password), quote(password))}
