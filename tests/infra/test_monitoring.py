"""The queries of Prometheus and Grafana match the exporter, and compose mounts their files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from evenload.pipeline import exporter

REPOSITORY = Path(__file__).resolve().parents[2]
MONITORING = REPOSITORY / "infra" / "monitoring"
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "expert-load.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]


def exported() -> set[str]:
    """The names of all exported metrics, as in a scrape."""
    families = [*exporter.counts([], []), *exporter.progress([]), *exporter.loads({})]
    suffixes = {"counter": "_total"}
    return {family.name + suffixes.get(family.type, "") for family in families} | {"evenload_up"}


@pytest.mark.parametrize("query", [*QUERIES, *(alert["expr"] for alert in ALERTS)])
def test_every_query_uses_exported_metrics(query: str) -> None:
    asked = set(re.findall(r"evenload_\w+", query))
    assert asked
    assert asked <= exported()


def test_the_dashboard_shows_load_idleness_throughput_and_queue() -> None:
    asked = " ".join(QUERIES)
    for name in ("layer_load_ratio", "idle_frac", "tokens_per_second", "queue"):
        assert name in asked
    assert all(panel["description"] for panel in DASHBOARD["panels"])


def test_compose_mounts_every_file_at_the_path_where_it_is_read() -> None:
    mounts = [
        mount
        for service in ("prometheus", "grafana")
        for mount in COMPOSE["services"][service]["volumes"]
        if mount.startswith("./infra/monitoring/")
    ]
    assert {Path(mount.split(":")[0]).name for mount in mounts} == {
        path.name for path in MONITORING.iterdir()
    }
    assert all(mount.endswith(":ro") for mount in mounts)
    provider = yaml.safe_load((MONITORING / "grafana-dashboards.yml").read_text())["providers"][0]
    assert any(f"{provider['options']['path']}/expert-load.json" in mount for mount in mounts)
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"][0]["targets"] == [f"exporter:{exporter.PORT}"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: prometheus)")
def test_prometheus_accepts_its_configuration() -> None:
    checked = subprocess.run(
        ["promtool", "check", "config", str(MONITORING / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
