from __future__ import annotations

import os
from pathlib import Path

import pytest

from evenload.pipeline.settings import Settings, current_settings


def test_a_new_home_and_its_files_are_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        private, shared = Settings(home=tmp_path / "new"), Settings(home=tmp_path / "lab")
        private.make_home()
        (private.root / "file").touch()
        assert private.root.stat().st_mode & 0o777 == 0o700
        assert (private.root / "file").stat().st_mode & 0o777 == 0o600
        os.umask(0o022)
        shared.root.mkdir(mode=0o750)
        shared.make_home()
        (shared.root / "file").touch()
        assert (shared.root / "file").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_servers_answer_to_local_names_their_address_and_those_of_a_proxy() -> None:
    assert Settings().host_names() == ["127.0.0.1", "localhost"]
    assert Settings().host_names("0.0.0.0") == ["127.0.0.1", "localhost"]
    behind = Settings(allowed_hosts="moe.example.com, *.lab")
    assert behind.host_names("192.0.2.7")[2:] == ["192.0.2.7", "moe.example.com", "*.lab"]


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


def test_settings_are_read_again_when_the_environment_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVENLOAD_OPERATORS", "a@b")
    first = current_settings()
    assert first == Settings()
    assert current_settings() is first
    monkeypatch.setenv("evenload_operators", "c@d")
    assert current_settings() is not first
    monkeypatch.delenv("EVENLOAD_OPERATORS")
    assert current_settings().operators == "c@d"
