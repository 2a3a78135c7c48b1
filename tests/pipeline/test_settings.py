from __future__ import annotations

from pathlib import Path

import pytest

from evenload.pipeline.settings import Settings


def test_everything_is_stored_below_home_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings()
    assert settings.store_url == f"sqlite:///{tmp_path}/.evenload/evenload.db"
    assert settings.mlflow_uri == f"sqlite:///{tmp_path}/.evenload/mlflow.db"
    assert settings.mlflow_artifacts == f"file://{tmp_path}/.evenload/artifacts"


def test_the_environment_beats_the_default_and_an_argument_beats_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_HOME", str(tmp_path / "env"))
    assert Settings().root == tmp_path / "env"
    assert Settings(home=tmp_path / "flag").root == tmp_path / "flag"


def test_a_tracking_server_decides_on_artifacts_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_TRACKING_URI", "http://mlflow:5000")
    assert Settings().mlflow_artifacts is None


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_MIRROR_URL", "")
    assert Settings().mirror_url is None
