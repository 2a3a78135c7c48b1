"""Tests of the ports of `evenload dashboard`."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.workers.cli.dashboard import free_port


def test_a_port_is_checked_on_the_interface_of_the_server() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SpecError, match=f"--port {port} is in use"):
            free_port(port, "127.0.0.2")
        assert free_port(port, "127.0.0.1") == port


def test_an_invalid_address_is_refused_with_its_name() -> None:
    with pytest.raises(SpecError, match=r"--address no\.such\.invalid --port 8501: .*choose"):
        free_port(8501, "no.such.invalid")


def test_an_invalid_port_is_refused(here: Any) -> None:
    ended = here("dashboard", "--port", "99999999")
    assert ended.code == 2
    assert "--port" in ended.err
    assert "65535" in ended.err
