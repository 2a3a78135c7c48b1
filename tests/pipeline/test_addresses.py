"""No part of a URL's credentials is shown, however the user wrote them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from fsspec.utils import infer_storage_options
from sqlalchemy import make_url

from evenload.pipeline.addresses import secrets_of, shown_address
from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.mirror import Mirror
from evenload.pipeline.redaction import redacted, secrets
from evenload.pipeline.settings import Settings
from evenload.pipeline.store.engine import open_engine
from evenload.pipeline.store.sweep_store import SweepStore

PARTS = ("qzxj", "wvkq7f", "jx8")  # of every planted secret; in no address, word or error otherwise
DELIMITERS = "/@:?#;&=%+ '\"\\<>[]{}|ü\t"
SCHEMES = ("postgresql+psycopg", "postgresql", "http", "ftp", "s3", "abfs", "simplecache::s3")
PARAMETERS = ("password", "sslpassword", "account_key", "sas_token", "PassWord", "sig", "key")


def planted() -> Iterator[tuple[str, str]]:
    """URLs with a secret of every spelling, and the host that they name, in a fixed order."""
    draw = random.Random(26)
    for delimiter in DELIMITERS:
        secret = delimiter.join(PARTS)
        for written in dict.fromkeys((secret, quote(secret, safe=""), quote(secret))):
            scheme = draw.choice(SCHEMES)
            yield f"{scheme}://user:{written}@127.0.0.1:1/name", "127.0.0.1:1"
            yield f"{scheme}://:{written}@127.0.0.1:1/name?sslmode=require", "127.0.0.1:1"
            yield f"{scheme}://user:{written}{delimiter}@127.0.0.1:1/name", "127.0.0.1:1"
            for parameter in draw.sample(PARAMETERS, 2):
                yield f"{scheme}://127.0.0.1:1/name?{parameter}={written}", "127.0.0.1:1"
                yield f"{scheme}:///name?host=127.0.0.1&port=1&{parameter}={written}", "name"
            yield f"{scheme}://user:{written}/name", ""  # the host is forgotten
            yield f"host=127.0.0.1 password={written}", ""
            yield f"user:{written}@127.0.0.1/name", ""
            yield f"{scheme}://127.0.0.1:1/name#{written}", "127.0.0.1:1"


URLS = sorted(set(planted()))


def leaked(text: object) -> list[str]:
    return [part for part in PARTS if part in str(text)]


def problem(call: Callable[[], object]) -> str:
    try:
        call()
    except (SpecError, OSError) as error:
        return f"{error} {error.__cause__}"
    return ""


def test_an_address_shows_scheme_host_and_name_and_nothing_else() -> None:
    assert len(URLS) > 250
    for url, host in URLS:
        shown = shown_address(url)
        assert not leaked(shown), url
        assert shown_address(shown) == shown, url
        assert host in shown or shown.endswith("***"), (url, shown)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:word@db:5432/evenload?sslmode=require", None),
        ("redis://:word@host/0", "redis://host/0"),
        ("postgresql://a,b:5433/evenload", "postgresql://a,b:5433/evenload"),
        ("postgresql://me:word@[::1]:5432/evenload", "postgresql://[::1]:5432/evenload"),
        ("sqlite:////home/me@corp/evenload.db", "sqlite:////home/me@corp/evenload.db"),
        ("file:///home/a%20b", "file:///home/a%20b"),
        ("/mnt/mirror", "/mnt/mirror"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
    ],
)
def test_what_is_no_secret_is_shown(url: str, shown: str | None) -> None:
    assert shown_address(url) == (shown or "postgresql+psycopg://db:5432/evenload")


def test_addresses_name_the_host_to_which_sqlalchemy_and_fsspec_connect() -> None:
    for scheme in ("postgresql+psycopg", "http"):
        for password in ("word", "w/rd", "w%40rd", "w?rd"):
            url = f"{scheme}://me:{password}@db:5432/evenload"
            host = shown_address(url).partition("://")[2]
            assert host in ("***", f"{make_url(url).host}:5432/evenload")
    assert infer_storage_options("ftp://me:word@host/dir")["host"] == "host"


# fsspec's FTP fails once more when it is deleted.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_errors_of_the_store_and_of_a_mirror_hold_no_secret() -> None:
    """Nothing answers at port 1, and many of these URLs cannot even be read."""
    for url, _ in URLS[:: len(URLS) // 30]:
        for call in (lambda url=url: SweepStore(url).sweeps(), lambda url=url: Mirror(url)):
            assert not leaked(problem(call)), url


def test_what_is_logged_about_an_address_holds_no_secret() -> None:
    """Libraries repeat the URL, or the part that they could not read, in several spellings."""
    for url, _ in URLS:
        hidden = secrets(Settings(database_url=url), {})
        for text in (url, repr(url), quote(url), f"no port {url.partition(':')[2]!r}"):
            found = redacted(text, hidden)
            assert not leaked(found) or not secrets_of(url), (text, found)


def test_a_mirror_is_stored_without_its_credentials() -> None:
    for url, _ in URLS:
        settings = Settings(mirror_url=url)
        path = settings.trial_dir("d") / "checkpoints" / "step-1.pt"
        uri = settings.uri_of(path)
        assert not leaked(uri)
        assert settings.path_of(uri) == path


def test_an_unreadable_url_is_bad_input() -> None:
    with pytest.raises(SpecError, match="cannot be opened"):
        open_engine("postgresql+psycopg://user:pa/ss@host:port/name")
