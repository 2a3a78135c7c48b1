"""What commands and pages print about an address holds no secret, however it was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenload.pipeline.settings import Settings
from evenload.pipeline.store.__main__ import main as migrate
from evenload.workers import cli
from evenload.workers.cli import doctor
from evenload.workers.cli.session import print_json
from tests.pipeline.test_addresses import URLS, leaked

SOME = [url for url, _ in URLS if url.startswith("postgresql")][::6]


@pytest.mark.parametrize("url", SOME)
def test_doctor_the_stores_command_and_errors_show_no_secret(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENLOAD_HOME", str(tmp_path))
    monkeypatch.setenv("EVENLOAD_DATABASE_URL", url)
    checks = [doctor._store(Settings())]
    print_json({"checks": [check._asdict() for check in checks], "uri": f"{url}/trials/t0"})
    with pytest.raises(SystemExit) as ended:
        migrate()
    assert ended.value.code == 2
    with pytest.raises(SystemExit):
        cli._end(f"OperationalError: no answer from {url!r}", 1)
    shown = capsys.readouterr()
    assert not leaked(shown.out), shown.out
    assert not leaked(shown.err), shown.err
    json.loads(shown.out)
