from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import streamlit as st

import evenload.dashboard
from evenload.dashboard.__main__ import APP, OPTIONS, command, streamlit_arguments
from evenload.pipeline.settings import Settings

ROOM = Path(str(evenload.dashboard.__file__)).parent


def _pages() -> list[str]:
    for node in ast.parse(APP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "PAGES":
            assert node.value is not None
            return list(ast.literal_eval(node.value))
    raise AssertionError("app.py has no literal PAGES")


def test_every_page_folder_has_an_entry_in_app() -> None:
    assert set(_pages()) == {path.parent.name for path in ROOM.glob("*/page.py")}


def test_pages_are_imported_under_one_name() -> None:
    """`streamlit run` puts dashboard/ first on sys.path: `import queries` would work, twice."""
    own = {path.stem for path in ROOM.glob("*.py")}
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in own, path
            elif isinstance(node, ast.Import):
                assert not own & {alias.name.split(".")[0] for alias in node.names}, path


def test_no_file_is_named_like_a_library() -> None:
    own = {path.stem for path in ROOM.glob("*.py")} - {"__init__", "__main__"}
    assert not own & set(sys.stdlib_module_names)
    probe = f"import importlib.util as u; print([n for n in {sorted(own)} if u.find_spec(n)])"
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd="/"
    )
    assert found.stdout.strip() == "[]"


def test_command_has_port_and_address() -> None:
    assert command(8777, "127.0.0.1")[1:] == [
        *("-P", "-m", "evenload.dashboard", "--port", "8777", "--address", "127.0.0.1")
    ]
    arguments = streamlit_arguments(8777, "127.0.0.1", ["127.0.0.1", "my.proxy"])
    assert arguments[:2] == ["run", str(APP)]
    assert {"--server.port=8777", "--server.address=127.0.0.1", "--server.headless=true"} <= set(
        arguments
    )
    hosts = ["--server.allowedHosts=127.0.0.1", "--server.allowedHosts=my.proxy"]
    assert [one for one in arguments if "allowedHosts" in one] == hosts


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7"])
def test_streamlit_need_not_ask_a_third_party_for_its_address(address: str) -> None:
    hosts = Settings().host_names(address)
    named = [one for one in streamlit_arguments(1, address, hosts) if "serverAddress" in one]
    assert named == [f"--browser.serverAddress={'192.0.2.7' if '192' in address else '127.0.0.1'}"]


def test_dashboard_starts_without_torch_ray_and_mlflow() -> None:
    probe = (
        "import sys; from evenload.dashboard.__main__ import preload; preload(); "
        "from evenload.dashboard import exports, page_parts, queries; "
        "print({'torch', 'ray', 'mlflow'} & set(sys.modules), 'altair' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set() True"


@pytest.mark.parametrize(
    ("option", "value"),
    [("client.showErrorDetails", "none"), ("browser.gatherUsageStats", "false")],
)
def test_error_details_and_usage_statistics_are_off(option: str, value: str) -> None:
    assert OPTIONS[option] == value


def test_every_option_is_known_to_streamlit() -> None:
    for option in OPTIONS:
        st.get_option(option)
