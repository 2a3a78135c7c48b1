"""`evenload mcp`: serves sweeps and their answers to agents."""

from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.agents.results import Advised
from evenload.pipeline.client import Client
from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import require
from evenload.pipeline.redaction import start_logging
from evenload.workers.cli.dashboard import free_port
from evenload.workers.cli.session import load_settings, log, open_store
from evenload.workers.cli.verbs import Home


def mcp_command(
    http: Annotated[
        bool, typer.Option("--http", help="over streamable HTTP; default: over stdio")
    ] = False,
    address: Annotated[str, typer.Option(help="with --http: address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="with --http: its port")] = 8765,
    host: Annotated[
        list[str] | None,
        typer.Option(help="with --http: another name by which clients reach it; can be repeated"),
    ] = None,
    controls: Annotated[
        bool, typer.Option(help="also the verbs; needs EVENLOAD_DASHBOARD_CONTROLS=true as well")
    ] = False,
    home: Home = None,
) -> None:
    """Serve sweeps, tables, answers, audits and advice to agents, over MCP.

    Over stdio until the client leaves; with --http until Ctrl-C, to clients with the token in
    EVENLOAD_MCP_TOKEN.
    """
    require("mcp", "uvicorn")
    from evenload.pipeline.agents.http import host_check, required_token, serve_http
    from evenload.pipeline.agents.server import build_server

    settings = load_settings(home)
    if controls and not settings.dashboard_controls:
        raise SpecError("--controls: set EVENLOAD_DASHBOARD_CONTROLS=true as well to allow it")
    token, check = None, None
    if http:
        token, check = required_token(settings), host_check(address, host or ())
        free_port(port, address)
    start_logging(settings)
    if controls:
        open_store(settings)
    url = settings.store_url if controls else settings.reader_url or settings.store_url
    server = build_server(Client(settings.home, url), _advise, controls, token)
    if check is None:
        server.run("stdio")
    else:
        log.print(f"MCP: http://{address}:{port}/mcp  (Ctrl-C ends it)")
        serve_http(server, address, port, check)


def _advise(folder: Path, steps: int, layer: int) -> Advised:
    from evenload.workers.cli.simulate import advised  # with torch

    seen, advice = advised(folder, steps, layer)
    return Advised(seen=seen._asdict(), rows=[one._asdict() for one in advice])
