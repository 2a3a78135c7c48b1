"""`evenload mcp` over both transports, with the client of the MCP SDK."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp
import pytest
from mcp.client.streamable_http import streamable_http_client

from evenload.pipeline.agents.http import host_check
from evenload.pipeline.errors import SpecError
from evenload.workers.cli.session import load_settings, open_store

TOKEN = "a-secret-of-many-characters"
COMMAND = str(Path(sys.executable).with_name("evenload"))
PYTHONPATH = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}


async def seen_by(client: mcp.Client) -> tuple[set[str], Any, bool]:
    """The names of the tools, the sweeps, and whether submitting nonsense is refused."""
    tools = {tool.name for tool in (await client.list_tools()).tools}
    found = await client.call_tool("sweeps", {})
    refused = await client.call_tool("submit", {"spec": "1"})
    return tools, found.structured_content, refused.is_error


def test_stdio_carries_only_the_protocol(tmp_path: Path) -> None:
    """The client would fail at any other line on standard output."""
    open_store(load_settings(tmp_path), create=True).close()
    server = mcp.StdioServerParameters(
        command=COMMAND,
        args=["mcp", "--controls", "--home", str(tmp_path)],
        env=PYTHONPATH | {"EVENLOAD_DASHBOARD_CONTROLS": "true"},
    )

    async def ask() -> tuple[set[str], Any, bool]:
        async with mcp.Client(server) as client:
            return await seen_by(client)

    tools, sweeps, is_refused = anyio.run(ask)
    assert {"sweeps", "answer", "pause", "submit"} <= tools
    assert sweeps["total"] == 0
    assert is_refused


def test_http_needs_the_token_and_a_known_host(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/mcp"
    open_store(load_settings(tmp_path), create=True).close()
    server = subprocess.Popen(
        [COMMAND, "mcp", "--http", "--port", str(port), "--home", str(tmp_path)],
        env=os.environ | {"EVENLOAD_MCP_TOKEN": TOKEN},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    while "Uvicorn running" not in (line := server.stderr.readline()):
        assert line, "the server ended"
    right = {"Authorization": f"Bearer {TOKEN}"}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}

    async def ask() -> tuple[set[str], Any, bool]:
        async with httpx2.AsyncClient(headers=right) as http:
            transport = streamable_http_client(url, http_client=http)
            async with mcp.Client(transport) as client:
                return await seen_by(client)

    def code(headers: dict[str, str]) -> int:
        accept = {"Accept": "application/json, text/event-stream"}
        return httpx2.post(url, json=request, headers=accept | headers).status_code

    try:
        tools, sweeps, is_refused = anyio.run(ask)
        codes = [
            code(right),
            code({}),
            code({"Authorization": "Bearer wrong"}),
            code(right | {"Host": "evil.example"}),
            code(right | {"Origin": "http://evil.example"}),
        ]
    finally:
        server.terminate()
        out, err = server.communicate(timeout=30)
    assert codes == [200, 401, 401, 421, 403]
    assert "sweeps" in tools
    assert "submit" not in tools
    assert sweeps["total"] == 0
    assert is_refused
    assert out == ""
    assert TOKEN not in err


@pytest.mark.parametrize(
    ("arguments", "token", "words"),
    [
        (["--http"], "", ["EVENLOAD_MCP_TOKEN has 0"]),
        (["--http"], "short", ["EVENLOAD_MCP_TOKEN has 5"]),
        (["--controls"], "", ["EVENLOAD_DASHBOARD_CONTROLS=true"]),
    ],
)
def test_what_would_not_be_safe_is_refused(
    arguments: list[str],
    token: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from evenload.workers.cli.mcp import mcp_command

    monkeypatch.setenv("EVENLOAD_MCP_TOKEN", token)
    options: dict[str, Any] = {"address": "127.0.0.1", "port": 8765, "http": False}
    options |= {"http": "--http" in arguments, "controls": "--controls" in arguments}
    with pytest.raises(SpecError) as refused:
        mcp_command(**options, home=tmp_path)
    assert [word for word in words if word not in str(refused.value)] == []


def test_requests_are_accepted_for_the_hosts_that_were_named() -> None:
    everywhere = host_check("0.0.0.0", ["cluster.example"])
    assert everywhere.enable_dns_rebinding_protection
    assert {"cluster.example", "cluster.example:*", "localhost:*"} <= set(everywhere.allowed_hosts)
    assert "evil.example" not in everywhere.allowed_hosts
    assert "[fe80::1]:*" in host_check("fe80::1", []).allowed_hosts
