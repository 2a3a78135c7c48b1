"""`evenload sweep run --address http://...`: errors before a job runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from requests.exceptions import InvalidURL

from evenload.workers.actors import ray_job


def test_an_id_cannot_be_sent_to_another_cluster(here: Any) -> None:
    ended = here("sweep", "run", "an-id", "--address", "http://a:1")
    assert ended.code == 2
    assert ended.err.startswith("error: an-id: with --address http://a:1 only the YAML file")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("Failed to connect to Ray\nat http://a:1."), "Failed to connect to Ray"),
        (RuntimeError("status code 401: no token"), "status code 401: no token"),
        (ConnectionError(), "ConnectionError"),
        (InvalidURL("Failed to parse: http://a:99999"), "Failed to parse: http://a:99999"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(
    error: Exception,
    reason: str,
    here: Any,
    sweep: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object) -> int:
        raise error

    monkeypatch.setattr(ray_job, "run_as_job", refuse)
    ended = here("sweep", "run", here.write("s.yaml", sweep()), "--address", "http://a:1")
    assert ended.code == 2
    assert ended.err.startswith(f"error: --address http://a:1: {reason}; give the address of a")
    assert ended.err.strip().count("\n") == 0
