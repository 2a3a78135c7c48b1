from __future__ import annotations

import io
import logging
import sys
from urllib.parse import quote

import pytest

from evenload.pipeline.redaction import RedactedFile, RedactingFormatter, redacted, secrets
from evenload.pipeline.settings import Settings


def test_tokens_of_the_environment_are_secrets() -> None:
    environment = {"RAY_AUTH_TOKEN": "ray-token", "HF_TOKEN": "hf-token", "HOME": "/home/me"}
    assert set(secrets(Settings(), environment)) == {"ray-token", "hf-token"}
    own = {"AZURE_STORAGE_KEY": "azure-word", "MY_DB_PASSWORD": "my-word", "PGPASSWORD": "pg-word"}
    assert set(secrets(Settings(), own)) == set(own.values())


def test_settings_without_passwords_hide_nothing() -> None:
    plain = Settings(database_url="sqlite:////a/b.db", tracking_uri="http://mlflow:5000")
    assert secrets(plain, {"RAY_AUTH_TOKEN": "", "HF_TOKEN": "a"}) == ()


def test_a_secret_that_holds_another_is_hidden_whole() -> None:
    environment = {"RAY_AUTH_TOKEN": "secret", "HF_TOKEN": "secret-and-more"}
    text = redacted("it is secret-and-more", secrets(Settings(), environment))
    assert text == "it is ***"


def test_a_file_never_gets_a_secret() -> None:
    file = io.StringIO()
    with RedactedFile(file, ("hidden-word",)) as guarded:
        print("a hidden-word here", file=guarded)
    assert file.getvalue() == "a *** here\n"


def test_neither_log_messages_nor_tracebacks_show_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ray-token")
    formatter = RedactingFormatter("%(message)s", Settings())
    try:
        raise ValueError("it was ray-token")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("x", logging.INFO, "", 0, "with %s", ("ray-token",), error)
    text = formatter.format(record)
    assert "ray-token" not in text
    assert text.startswith("with ***")
    assert "ValueError: it was ***" in text


TEXTS = [
    name for name, field in Settings.model_fields.items() if "str" in str(field.annotation).lower()
]


@pytest.mark.parametrize("name", TEXTS)
def test_the_secret_of_every_setting_is_hidden_without_the_environment(name: str) -> None:
    """As on a worker of another host, which gets the settings from its coordinator."""
    given = "https://me:Zq9-the-hidden-word@host.example/x"
    hidden = secrets(Settings.model_validate({name: given}), {})
    for shown in (given, repr(given), quote(given), "failed with Zq9-the-hidden-word"):
        assert "Zq9-the-hidden-word" not in redacted(f"it is {shown}", hidden)
