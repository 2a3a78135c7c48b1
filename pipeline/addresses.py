"""Addresses of databases, MLflow and mirrors: what of a URL may be shown, and what in it is secret.

Users write passwords with characters that belong into percent codes, so that libraries disagree
about where a password ends. Wherever that is possible, only the scheme is shown.
"""

import re
from collections.abc import Iterator

HIDDEN = "***"
SHORTEST = 6  # characters; a shorter secret would match parts of ordinary words
SHORTEST_TOKEN = 16  # characters of a token that stands in place of a user's name
# Values of these query parameters may appear in errors. Those of all others are secrets.
PLAIN_PARAMETERS = {
    "application_name",
    "client_encoding",
    "connect_timeout",
    "dbname",
    "endpoint_url",
    "host",
    "mode",
    "options",
    "port",
    "region",
    "sslmode",
    "target_session_attrs",
    "timeout",
    "uri",
    "user",
}
_HOST = re.compile(r"(\[[\da-fA-F:.%]+\]|[^:\[\]@\s]*)(:\d{0,5})?")


def shown_address(url: str) -> str:
    """Scheme, host and name of the URL; `scheme://***` if a password may reach into these.

    A path without a scheme is shown as it is. The result of a result is the same.
    """
    scheme, found, rest = _without_chain(url).partition("://")
    if not found:
        return url if re.fullmatch(r"[^@=:;?#&\s]+", url) else HIDDEN
    if not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        return HIDDEN
    place, _, further = _split(rest)
    if place.startswith("/"):  # there is no host, and so no password before it
        return f"{scheme}://{place}"
    host, slash, name = place.rpartition("@")[2].partition("/")
    unclear = place.count("@") > 1 or "@" in further
    if unclear or not all(_HOST.fullmatch(one) for one in host.split(",")):
        return f"{scheme}://{HIDDEN}"
    return f"{scheme}://{host}{slash}{name}"


def is_unclear(url: str) -> bool:
    """Whether nothing but the scheme can be shown."""
    return shown_address(url).endswith(HIDDEN)


def secrets_of(url: str) -> set[str]:
    """Everything of the URL that an error of a library may repeat and that must not be shown."""
    whole = _without_chain(url).partition("://")[2] or url
    place, _, further = _split(whole)
    before = whole if is_unclear(url) else place.rpartition("@")[0]
    found = set() if place.startswith("/") else set(_credentials(before))
    found |= {url, whole} if is_unclear(url) else set()
    for start in (0, *(match.end() for match in re.finditer(r"[&;#?]", further))):
        rest = further[start:]  # to the end, because the value may hold such characters itself
        parameter = re.split(r"[&;#?]", rest)[0]
        name, _, value = parameter.partition("=")
        if name.lower() not in PLAIN_PARAMETERS:
            longest = (rest, rest.partition("=")[2], parameter, value)
            found |= {text for text in longest if len(text) >= SHORTEST}
    return found


def _credentials(before: str) -> Iterator[str]:
    """The password and its parts. A part that is too short counts if an @ or a colon follows."""
    user, _, password = before.partition(":")
    if len(password) >= SHORTEST:
        yield password
    for part in re.split(r"[:@/?#]", password):
        if len(part) >= SHORTEST:
            yield part
        elif part and part != user:
            yield f"{part}@"
    if not password and len(user) >= SHORTEST_TOKEN:
        yield user


def _without_chain(url: str) -> str:
    """The last URL of a chain, such as simplecache::s3://bucket."""
    return url.rpartition("::")[2] if "::" in url.partition("://")[0] else url


def _split(rest: str) -> tuple[str, str, str]:
    """What stands before the query or the fragment, the separator, and what follows it."""
    found = re.search(r"[?#;]", rest)
    if found is None:
        return rest, "", ""
    return rest[: found.start()], found.group(), rest[found.end() :]
