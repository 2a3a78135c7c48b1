"""A login with OpenID Connect: Streamlit and Authlib against a provider of this file."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.dashboard.browser.pages import WAIT_MS, served, settled
from tests.faults.services import free_port

pytestmark = [pytest.mark.slow, pytest.mark.browser]
jwk = pytest.importorskip("joserfc.jwk", reason="needs Authlib")
jwt = pytest.importorskip("joserfc.jwt", reason="needs Authlib")
CLIENT, SECRET = "evenload", "s3cret-of-the-client"


class Provider(BaseHTTPRequestHandler):
    """Logs in, without asking, whoever `viewer` names."""

    viewer: ClassVar[dict[str, Any]] = {}
    nonces: ClassVar[dict[str, str]] = {}  # by code
    key: ClassVar[Any] = jwk.RSAKey.generate_key(2048, {"kid": "one"})

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        at = f"http://{self.headers['Host']}"
        if url.path == "/authorize":
            self.nonces[code := f"code-{len(self.nonces)}"] = asked["nonce"]
            query = urlencode({"code": code, "state": asked["state"]})
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri']}?{query}")
            self.end_headers()
        elif url.path == "/keys":
            self._answer({"keys": [self.key.as_dict(private=False)]})
        else:
            paths = {"authorization_endpoint": "/authorize", "token_endpoint": "/token"}
            found = {name: at + path for name, path in (paths | {"jwks_uri": "/keys"}).items()}
            self._answer(
                {"issuer": at, "id_token_signing_alg_values_supported": ["RS256"], **found}
            )

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        basic = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        assert self.headers["Authorization"] == f"Basic {basic}"
        now = int(time.time())
        claims = {"iss": f"http://{self.headers['Host']}", "aud": CLIENT, "sub": "1", "iat": now}
        claims |= {"exp": now + 600, "nonce": self.nonces[parse_qs(body)["code"][0]], **self.viewer}
        token = jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)
        self._answer({"access_token": "a", "token_type": "Bearer", "id_token": token})

    def _answer(self, document: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(document).encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    provider = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    Thread(target=provider.serve_forever, daemon=True).start()
    port = free_port()
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "secrets.toml").write_text(
        "[auth]\n"
        f'redirect_uri = "http://127.0.0.1:{port}/oauth2callback"\n'
        'cookie_secret = "signs-the-cookie-of-a-viewer"\n'
        f'client_id = "{CLIENT}"\nclient_secret = "{SECRET}"\n'
        f'server_metadata_url = "http://127.0.0.1:{provider.server_port}/openid-configuration"\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENLOAD_DASHBOARD_LOGIN", "true")
    monkeypatch.setenv("EVENLOAD_OPERATORS", "anna@x.org")
    with served(home, tmp_path / "log", port) as address:
        yield address
    provider.shutdown()
    provider.server_close()


def test_an_operator_may_steer_after_a_login_and_a_viewer_only_looks(
    page: Page, address: str
) -> None:
    for mail, verified, may_submit in (
        ("eve@x.org", True, False),
        ("anna@x.org", False, False),
        ("anna@x.org", True, True),
    ):
        Provider.viewer = {"email": mail, "email_verified": verified}
        page.context.clear_cookies()
        page.goto(f"{address}/sweeps?view=Start+a+sweep")
        expect(page.get_by_test_id("stDataFrame")).to_have_count(0)
        page.get_by_role("button", name="Log in").click()
        settled(page, "Sweeps")
        page.goto(f"{address}/sweeps?view=Start+a+sweep")
        settled(page, "Sweeps")
        submit = page.get_by_role("button", name="Submit")
        expect(submit).to_be_visible(timeout=WAIT_MS)
        (expect(submit).to_be_enabled if may_submit else expect(submit).to_be_disabled)()
