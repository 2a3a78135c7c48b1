"""infra/fast_pip.py: uv gets the settings of pip, and pip installs if uv does not."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from infra import fast_pip
from infra.fast_pip import install, pip_settings, uv_environment

LISTED = r"""
:env:.default-timeout='30'
:env:.find-links='/links'
global.cert='/etc/certificates.pem'
global.extra-index-url='https://one.example/simple\nhttps://two.example/simple'
global.find-links='/elsewhere'
global.index-url='https://reader:secret@index.example/simple'
global.trusted-host='index.example'
install.constraint='/etc/constraints.txt'
download.find-links='/not-for-install'
"""


def test_settings_of_pip_become_variables_of_uv() -> None:
    environment = uv_environment(pip_settings(LISTED))
    environment.pop("UV_COMPILE_BYTECODE", None)
    assert environment == {
        "UV_DEFAULT_INDEX": "https://reader:secret@index.example/simple",
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/links",
        "UV_CONSTRAINT": f"/etc/constraints.txt {fast_pip.HASHES}",
        "UV_BUILD_CONSTRAINT": str(fast_pip.HASHES),
        "UV_INSECURE_HOST": "index.example",
        "UV_HTTP_TIMEOUT": "30",
        "SSL_CERT_FILE": "/etc/certificates.pem",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_SYSTEM_CERTS": "true",
    }


def test_code_is_compiled_at_once_where_python_will_not_do_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert uv_environment({})["UV_COMPILE_BYTECODE"] == "true"
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert "UV_COMPILE_BYTECODE" not in uv_environment({})


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pip and a uv that write down how they are called. `uv-fails` makes uv fail."""
    program = (
        f"#!/bin/sh\ncd {tmp_path}\n"
        'name=$(basename "$0")\n[ "$1 $2" = "config list" ] && cat listed && exit 0\n'
        'echo "$@" >"$name.called"; env >"$name.environment"\n'
        '[ "$name" = uv ] && [ -e uv-fails ] && cat uv-fails >&2 && exit 1\nexit 0\n'
    )
    (tmp_path / "listed").write_text(LISTED.lstrip())
    for name in ("pip", "uv"):
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(fast_pip, "PIP", [str(tmp_path / "pip")])
    monkeypatch.setattr(fast_pip, "UV", tmp_path / "uv")
    return tmp_path


def test_uv_installs_and_no_password_is_among_its_arguments(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", "/chosen-for-uv")
    assert install(["--quiet", "torch"]) == 0
    called = (programs / "uv.called").read_text()
    assert called == f"pip install --python {sys.executable} --quiet torch\n"
    environment = (programs / "uv.environment").read_text().splitlines()
    assert "UV_DEFAULT_INDEX=https://reader:secret@index.example/simple" in environment
    assert "UV_FIND_LINKS=/chosen-for-uv" in environment
    assert f"HOME={os.environ['HOME']}" in environment
    assert not (programs / "pip.called").exists()


def test_pip_installs_what_uv_cannot_after_one_line(
    programs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (programs / "uv-fails").write_text("error: no solution\n")
    assert install(["--quiet", "torch"]) == 0
    assert (programs / "pip.called").read_text() == "install --quiet torch\n"
    assert capfd.readouterr().err == "uv did not install (error: no solution); pip does\n"


def test_a_file_with_another_hash_is_not_installed_by_pip_either(programs: Path) -> None:
    (programs / "uv-fails").write_text("error: Hash mismatch for `torch==2`\n")
    with pytest.raises(SystemExit, match="nothing was installed: a file is not the one of hashes"):
        install(["torch"])
    assert not (programs / "pip.called").exists()


def test_every_constraint_has_hashes_and_no_address_of_an_index() -> None:
    constraints = fast_pip.HASHES.with_name("constraints.txt").read_text().splitlines()
    hashes = fast_pip.HASHES.read_text()
    pinned = re.findall(r"^(\S+==\S+) \\\n    --hash=sha256:[0-9a-f]{64}", hashes, re.MULTILINE)
    wanted = [line for line in constraints if line and not line.startswith("#")]
    assert sorted(map(_normal, pinned)) == sorted(map(_normal, wanted))
    assert fast_pip.REQUIREMENT in wanted
    assert "://" not in hashes


def _normal(pinned: str) -> str:
    name, _, version = pinned.partition("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version}"


def test_pip_installs_where_uv_cannot_be_had(
    programs: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (programs / "uv").unlink()
    assert install(["torch"]) == 0
    assert (programs / "pip.called").read_text() == "install torch\n"
    assert capfd.readouterr().err == "uv did not install (pip cannot install uv); pip does\n"


def test_no_index_is_a_flag_of_uv(programs: Path) -> None:
    (programs / "listed").write_text("global.no-index='true'\n")
    assert install(["torch"]) == 0
    assert (programs / "uv.called").read_text().endswith(" torch --no-index\n")
