"""fast_pip.py ARGUMENT ...: `pip install ARGUMENT ...` into this Python with uv, which is faster.

uv reads none of pip's settings. It gets them here: indexes, links, certificates, constraints and
proxy, from pip's files and variables. If uv fails, one line says so and pip installs instead.

uv also verifies the hashes of hashes.txt beside this file. pip could not: it would demand a hash of
every package, of torch and of evenload itself, too. A file with another hash is never installed.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

REQUIREMENT = "uv==0.13.9"  # as in constraints.txt
HASHES = Path(__file__).with_name("hashes.txt")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
UV = Path(sys.executable).with_name("uv")
# pip's key: uv's variable, and the separator of several values. The settings are variables and not
# arguments because an index may have a password, and arguments are visible to every user.
VARIABLES = {
    "index-url": ("UV_DEFAULT_INDEX", ""),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "constraint": ("UV_CONSTRAINT", " "),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "cert": ("SSL_CERT_FILE", ""),
    "proxy": ("ALL_PROXY", ""),
    "timeout": ("UV_HTTP_TIMEOUT", ""),
}


def pip_settings(listed: str) -> dict[str, str]:
    """What `pip config list` printed, as one dict. PIP_* variables override files, as in pip."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in found:
            found[section][key] = str(ast.literal_eval(value))
    merged = found["global"] | found["install"] | found[":env:"]
    return {key.removeprefix("default-"): value for key, value in merged.items()}  # default-timeout


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """uv's variables for pip's settings. Like pip, uv then compares the versions of all indexes."""
    given = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_SYSTEM_CERTS": "true"}
    for key, (variable, separator) in VARIABLES.items():
        if values := settings.get(key, "").split():
            given[variable] = separator.join(values)
    if HASHES.exists():
        pinned = filter(None, [given.get("UV_CONSTRAINT"), str(HASHES)])
        given |= {"UV_CONSTRAINT": " ".join(pinned), "UV_BUILD_CONSTRAINT": str(HASHES)}
    if sys.dont_write_bytecode:  # otherwise Python compiles what it imports, once
        given["UV_COMPILE_BYTECODE"] = "true"
    return given


def install(arguments: list[str]) -> int:
    """Returns the exit code of uv, or of pip if uv failed."""
    problem = _by_uv(arguments)
    if problem is None:
        return 0
    print(f"uv did not install ({problem}); pip does", file=sys.stderr)
    return subprocess.run([*PIP, "install", *arguments]).returncode


def _by_uv(arguments: list[str]) -> str | None:
    """Installs with uv. Returns the reason where that fails."""
    if not UV.exists():
        subprocess.run([*PIP, "install", "--quiet", REQUIREMENT], capture_output=True)
    if not UV.exists():
        return "pip cannot install uv"
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True).stdout
    settings = pip_settings(listed)
    chosen = {name: value for name, value in os.environ.items() if name.startswith("UV_")}
    ended = subprocess.run(
        [str(UV), "pip", "install", "--python", sys.executable, *arguments]
        + ["--no-index"] * (settings.get("no-index", "0").lower() in ("1", "true", "yes", "on")),
        env=os.environ | uv_environment(settings) | chosen,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = ended.stderr.strip().splitlines()
    if ended.returncode == 0:
        return None
    if "hash mismatch" in ended.stderr.lower():
        sys.exit(f"{ended.stderr}nothing was installed: a file is not the one of {HASHES.name}")
    return lines[-1].strip(" ╰─▶") if lines else f"exit code {ended.returncode}"


if __name__ == "__main__":
    sys.exit(install(sys.argv[1:]))
