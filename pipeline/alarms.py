"""Alarms, and the webhook that gets them (EVENLOAD_ALERT_URL).

An alarm is sent as one JSON document:

    {"text": "evenload: ...", "id": "verdict/step-sizes-4a0d8d", "kind": "verdict",
     "about": "step-sizes-4a0d8d", "trial": null}

`text` is all that a chat needs. `about` is a sweep, or a recorded run. The same alarm has the same
`id` every time: if a process is killed between the answer of the receiver and its own note, the
alarm is sent again, and the header Idempotency-Key, which has the id, tells that it is the same.
"""

import json
import urllib.request
from http.client import HTTPException
from typing import Any, Literal, NamedTuple
from urllib.error import HTTPError

from evenload.pipeline.addresses import HIDDEN
from evenload.pipeline.escaping import LONGEST, for_chat
from evenload.pipeline.redaction import redacted, secrets
from evenload.pipeline.settings import Settings

TIMEOUT_SECONDS = 5.0

Kind = Literal["dead-experts", "verdict", "sweep-failed"]


class Alarm(NamedTuple):
    kind: Kind
    about: str  # id of a sweep, or of a recorded run
    trial: str | None  # digest; None: the alarm is about all of it
    text: str

    @property
    def key(self) -> tuple[str, str | None]:
        """Tells alarms about one sweep apart."""
        return self.kind, self.trial

    @property
    def id(self) -> str:
        return "/".join(filter(None, (self.kind, self.about, self.trial)))


class NotDelivered(Exception):
    """The receiver did not take an alarm.

    Args:     refused: it takes others, but not this one
    """

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


def dead_experts(about: str, trial: str | None, name: str, share: float) -> Alarm:
    """Args: share: of the experts that got less than a tenth of their fair share in 100 steps"""
    text = f"{share:.2g} of the experts"
    if share >= 0.001:
        text = f"{100 * share:.1f} % of the experts"
    said = f"dead experts in {name}: {text} got less than a tenth of their fair share in 100 steps"
    return Alarm("dead-experts", about, trial, f"{said} ({about}{f', {trial}' if trial else ''})")


def send(alarm: Alarm, settings: Settings) -> None:
    """Sends an alarm, once.  Raises: NotDelivered"""
    assert settings.alert_url is not None
    text = for_chat(redacted(f"evenload: {alarm.text}", secrets(settings)))
    content = {"text": text[:LONGEST], "id": alarm.id, "kind": alarm.kind}
    request = urllib.request.Request(
        settings.alert_url.get_secret_value(),
        json.dumps(content | {"about": alarm.about, "trial": alarm.trial}).encode(),
        {"Content-Type": "application/json", "Idempotency-Key": alarm.id},
    )
    try:
        _OPENER.open(request, timeout=TIMEOUT_SECONDS).close()
    except HTTPError as error:
        is_busy = error.code >= 500 or error.code in (408, 429)
        reason = f"{receiver(settings)} answers {error.code}"
        raise NotDelivered(reason, refused=not is_busy) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = redacted(str(getattr(error, "reason", error)), secrets(settings))
        raise NotDelivered(f"{receiver(settings)} does not answer: {reason}") from None


def receiver(settings: Settings) -> str:
    """The webhook without its path, which is a secret: https://hooks.slack.com/***"""
    url = "" if settings.alert_url is None else settings.alert_url.get_secret_value()
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2].partition("?")[0]
    return f"{url.partition('://')[0]}://{host}/{HIDDEN}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An alarm goes to nobody but the address that the operator named."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)
