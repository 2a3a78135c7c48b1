"""Serves the MCP server over streamable HTTP. Every request needs the token."""

from collections.abc import Sequence
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings

HERE = ("127.0.0.1", "localhost", "[::1]")


def required_token(settings: Settings) -> str:
    """The token of HTTP clients.  Raises: SpecError: there is none, or it is short"""
    token = settings.mcp_token.get_secret_value() if settings.mcp_token is not None else ""
    if len(token) < 16:
        raise SpecError(
            f"EVENLOAD_MCP_TOKEN has {len(token)} characters; HTTP needs a secret of at least 16, "
            'such as "$(openssl rand -hex 32)"'
        )
    return token


def host_check(address: str, hosts: Sequence[str]) -> TransportSecuritySettings:
    """Accepts requests for these hosts only, so that no web page can reach the server by DNS.

    Args:     hosts: names by which clients reach the server, beside its address and this machine
    """
    own = f"[{address}]" if ":" in address else address
    forms = [form for name in (*HERE, own, *hosts) for form in (name, f"{name}:*")]
    origins = [f"{scheme}://{form}" for scheme in ("http", "https") for form in forms]
    return TransportSecuritySettings(allowed_hosts=forms, allowed_origins=origins)


def serve_http(
    server: MCPServer[Any], address: str, port: int, check: TransportSecuritySettings
) -> None:
    """Serves /mcp until Ctrl-C or SIGTERM, without sessions. Logs go to the standard log."""
    app = server.streamable_http_app(
        json_response=True, stateless_http=True, host=address, transport_security=check
    )
    uvicorn.run(app, host=address, port=port, log_config=None)
