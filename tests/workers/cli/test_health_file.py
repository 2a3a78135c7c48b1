from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from evenload.workers.cli.coordinator_process import touch
from infra import health


def test_a_health_file_is_made_for_its_user_and_touched(tmp_path: Path) -> None:
    path = tmp_path / "healthy"
    touch(path)
    assert path.stat().st_mode & 0o777 == 0o600
    os.utime(path, (1, 1))
    touch(path)
    assert time.time() - path.stat().st_mtime < 60
    assert health.fresh(str(path), "60")


def test_a_link_in_its_place_is_neither_followed_nor_healthy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, link = tmp_path / "target", tmp_path / "healthy"
    link.symlink_to(target)
    touch(link)
    assert not target.exists()
    assert "not a file of ours" in caplog.text
    target.touch()
    os.utime(link, (1, 1), follow_symlinks=False)
    assert not health.fresh(str(link), "60")
