"""Every page with whatever an address may say, with damaged files, and in both units of loss."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from evenload.pipeline.settings import Settings
from tests.dashboard.conftest import render, use_home

SWEEP_VIEWS = ("Answer", "Runs", "Front", "Step sizes", "Curves")
RUN_VIEWS = ("Load", "Balance", "Biases", "Training", "Experts", "System", "Record")
VISITS: list[tuple[str, str]] = [
    *(("sweep", view) for view in SWEEP_VIEWS),
    *(("run", view) for view in RUN_VIEWS),
    *(("sweeps", view) for view in ("All sweeps", "Start a sweep")),
    *((page, "") for page in ("compare", "cost", "theory", "cluster", "glossary")),
]
IN_EVERY_RUN = (  # those that show losses; the others run with the slow tests
    *(("sweep", view) for view in ("Answer", "Runs", "Front")),
    *(("run", view) for view in ("Training", "Experts")),
    *(("compare", ""), ("cost", "")),
)
# The choices that pages keep in the address, ids and views apart.
CHOICES = (
    *("group", "x", "y", "colour", "picked", "at", "figure", "over", "step", "sorted", "layer"),
    *("binned", "log", "window", "floor", "against", "ranks", "hours", "price", "watts", "from"),
    *("zoom-loss", "zoom-front", "zoom-learning-curves", "zoom-max-vio"),
)
RAW = re.compile(
    r"Traceback|\w+(Error|Exception)\b: |<class |object at 0x|NoneType|np\.float|\bnan\b"
    r"|Ask ChatGPT|This app has encountered an error"
)
RECORDS = {("run", "Record"), ("glossary", ""), ("sweeps", "All sweeps"), ("cluster", "")}


def _text(page: AppTest) -> str:
    """Everything that the browser gets as text, but for the switch of the unit itself."""
    shown = (element for element in page.main if element.type != "button_group")
    return "\n".join(str(element.proto) for element in shown)


def _ids(demo: Any, page: str) -> dict[str, str]:
    run = demo.trial("finished", "none", 32).digest
    other = demo.trial("finished", "sign 0.01", 16).digest
    return {
        "sweep": {"sweep": demo.ids["searched"]},
        "cost": {"sweep": demo.ids["finished"]},
        "run": {"run": run},
        "compare": {"runs": f"{run},{other}"},
    }.get(page, {})


def _opened(demo: Any, page: str, view: str, **query: str) -> AppTest:
    return render(page, **_ids(demo, page), **({"view": view} if view else {}), **query)


def _said(page: AppTest) -> str:
    return "\n".join(box.value for kind in (page.error, page.warning, page.info) for box in kind)


@pytest.mark.parametrize(
    ("page", "view"),
    [pytest.param(*v, marks=() if v in IN_EVERY_RUN else pytest.mark.slow) for v in VISITS],
)
def test_choices_that_do_not_exist_are_said_and_losses_have_the_chosen_unit(
    demo_home: Any, page: str, view: str
) -> None:
    shown = _opened(demo_home, page, view, loss="nats per token", **dict.fromkeys(CHOICES, "nope"))
    assert not shown.exception
    text = _text(shown)
    assert not RAW.search(text)
    assert all(frame.proto.placeholder for frame in shown.dataframe)  # otherwise: None
    if (page, view) not in RECORDS:
        assert "its per byte" not in text
    widgets = {key for key in CHOICES if key in shown.session_state}
    if widgets:
        assert f"{min(widgets)}=nope" in _said(shown).replace("\\", "")


@pytest.mark.slow
@pytest.mark.parametrize("value", ["-1", "1e999", "nan", "9" * 60, "../../x", "%00", "<b>x", ""])
@pytest.mark.parametrize(("page", "view"), VISITS)
def test_no_address_breaks_a_page(demo_home: Any, page: str, view: str, value: str) -> None:
    shown = _opened(demo_home, page, view, loss=value, **dict.fromkeys(CHOICES, value))
    assert not shown.exception
    assert not RAW.search(_text(shown))
    if (page, view) not in RECORDS:
        assert "nats" not in _text(shown)  # the unit that the address does not name: bits per byte


@pytest.mark.parametrize(
    ("page", "key"),
    [("sweep", "sweep"), ("cost", "sweep"), ("run", "run"), ("compare", "runs")],
)
@pytest.mark.parametrize("value", ["nope", pytest.param("-1", marks=pytest.mark.slow)])
def test_id_that_does_not_exist_is_said(demo_home: Any, page: str, key: str, value: str) -> None:
    shown = render(page, **{key: value})
    assert not shown.exception
    assert value in _said(shown).replace("\\", "")


@pytest.mark.parametrize("page", ["sweeps", pytest.param("run", marks=pytest.mark.slow)])
def test_view_that_does_not_exist_is_said(demo_home: Any, page: str) -> None:
    assert "view=nope" in _said(_opened(demo_home, page, "nope"))


@pytest.fixture
def damaged(demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run in a copy of the home."""
    home = Path(shutil.copytree(demo.home, tmp_path / "home"))
    use_home(home, monkeypatch)
    return Settings(home=home).trial_dir(demo.trial("finished", "none", 32).digest)


@pytest.mark.slow
@pytest.mark.parametrize("keeps", [0.0, 0.5])
def test_truncated_file_is_named_and_the_rest_of_the_page_stays(
    demo: Any, damaged: Path, keeps: float
) -> None:
    files = [file for file in damaged.rglob("*.parquet") if file.stem != "pooled"]
    assert len(files) > 10
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[: int(keeps * len(content))])
        st.cache_data.clear()
        st.cache_resource.clear()
        said = ""
        for page, view in [*(("run", view) for view in RUN_VIEWS), ("compare", ""), ("cost", "")]:
            shown = _opened(demo, page, view)
            assert not shown.exception, (file.name, page, view)
            assert not RAW.search(_text(shown)), (file.name, page, view)
            said += _said(shown)
        assert f"{file.parent.name}/{file.name}" in said.replace("\\", "")
        file.write_bytes(content)
