"""Checks docker-compose.yml as a file; tests/compose runs it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.test_k8s import leaves

REPOSITORY = Path(__file__).resolve().parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(
    (REPOSITORY / "docker-compose.yml").read_text()
)["services"]
LASTING = {name: service for name, service in SERVICES.items() if name != "migrate"}
UNITS = {"m": 1, "g": 1000}


def megabytes(limit: str) -> int:
    value = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", limit)
    return int(value[:-1]) * UNITS[value[-1]]


@pytest.mark.parametrize("name", LASTING)
def test_services_restart_report_their_health_and_have_a_limit(name: str) -> None:
    service = LASTING[name]
    assert service["restart"] == "unless-stopped"
    assert "test" in service["healthcheck"]
    assert megabytes(service["mem_limit"]) > 0


def test_two_workers_and_the_rest_fit_a_laptop_of_16_gigabytes() -> None:
    always = [service for service in SERVICES.values() if "profiles" not in service]
    limits = [megabytes(service["mem_limit"]) for service in always]
    assert sum(limits) + megabytes(SERVICES["ray-worker"]["mem_limit"]) < 15_500


def test_ports_are_published_to_this_machine_only_and_the_database_not_at_all() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in SERVICES["postgres"]


def test_the_database_is_stopped_after_everything_that_needs_it() -> None:
    """`down` regards only dependencies between running containers, and `migrate` has ended."""
    for name, service in SERVICES.items():
        if "@postgres/" in str(service.get("environment")):
            assert "postgres" in service["depends_on"], name


def test_ray_asks_for_the_token_in_every_role() -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu", "coordinator"):
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_the_settings_table_has_the_variables_of_the_file_with_their_defaults() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{(EVENLOAD_\w+):-(.*?)\}", text))
    table = (REPOSITORY / "infra" / "README.md").read_text()
    rows = dict(re.findall(r"^\| (EVENLOAD_\w+) \| (\S+) \|", table, flags=re.MULTILINE))
    assert rows == {name: default or "none" for name, default in defaults.items()}


def test_every_ray_role_runs_the_same_image() -> None:
    roles = ("ray-head", "ray-worker", "ray-worker-gpu", "coordinator")
    assert len({SERVICES[role]["image"] for role in roles}) == 1


def test_secrets_are_made_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    script = tmp_path / "infra" / "secrets.sh"
    script.write_text((REPOSITORY / "infra" / "secrets.sh").read_text())
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    made = (tmp_path / ".env").read_text()
    assert os.stat(tmp_path / ".env").st_mode & 0o077 == 0
    assert re.fullmatch(r"([A-Z_]+=[0-9a-f]{64}\n){2,}", made)
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    assert (tmp_path / ".env").read_text() == made


def test_a_missing_secret_is_added_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    script = tmp_path / "infra" / "secrets.sh"
    script.write_text((REPOSITORY / "infra" / "secrets.sh").read_text())
    (tmp_path / ".env").write_text("RAY_AUTH_TOKEN=mine\nMLFLOW_PORT=5001\n")
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    lines = (tmp_path / ".env").read_text().splitlines()
    assert lines[:2] == ["RAY_AUTH_TOKEN=mine", "MLFLOW_PORT=5001"]
    asked = set(re.findall(r"\$\{(\w+):\?", (REPOSITORY / "docker-compose.yml").read_text()))
    assert asked == {line.partition("=")[0] for line in lines} - {"MLFLOW_PORT"}


def test_gpu_workers_reserve_a_gpu_and_start_only_when_asked_for() -> None:
    gpu = SERVICES["ray-worker-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "--num-gpus=0" not in gpu["command"]
    assert "--num-gpus=0" in SERVICES["ray-worker"]["command"]


def test_all_services_that_read_or_write_trials_have_the_same_mirror() -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu", "coordinator", "dashboard"):
        assert SERVICES[name]["environment"]["EVENLOAD_MIRROR_URL"] == "${EVENLOAD_MIRROR_URL:-}"


def secret_names() -> set[str]:
    """The variables that secrets.sh writes, and every key of the secret of infra/k8s."""
    text = (REPOSITORY / "infra" / "secrets.sh").read_text()
    return set(re.findall(r"\b[A-Z_]+(?:PASSWORD|TOKEN)\b", text))


def commands() -> Iterator[tuple[str, str]]:
    """Every command and health check of the services, and every one of the manifests."""
    for name, service in SERVICES.items():
        for part in (service.get("command"), service.get("healthcheck", {}).get("test")):
            yield name, str(part)
    for path in (REPOSITORY / "infra" / "k8s").rglob("*.yaml"):
        for tree in yaml.safe_load_all(path.read_text()):
            for key in ("command", "args", "entrypoint"):
                yield from ((path.name, str(part)) for part in leaves(tree, key))


def test_no_command_and_no_health_check_expands_a_secret() -> None:
    """Every user of the machine can read the arguments of a process."""
    holders = {
        key for tree in SERVICES.values() for key, value in (tree.get("environment") or {}).items()
        if any(f"${{{name}" in str(value) for name in secret_names())
    }  # fmt: skip
    assert holders >= {"EVENLOAD_DATABASE_URL", "MLFLOW_BACKEND_STORE_URI", "RAY_AUTH_TOKEN"}
    found = list(commands())
    assert len(found) > 25
    for owner, command in found:
        for name in holders | secret_names():
            assert not re.search(rf"\$[({{]?{name}\b", command), f"{owner}: {command}"


def test_no_service_connects_as_the_superuser() -> None:
    users = {
        user
        for service in SERVICES.values()
        for user in re.findall(r"://(\w+):\$\{POSTGRES", str(service.get("environment")))
    }
    assert users == {"evenload_owner", "evenload_writer", "evenload_reader", "mlflow"}
    assert SERVICES["postgres"]["environment"]["POSTGRES_USER"] not in users
    reader = str(SERVICES["exporter"]["environment"])
    assert "evenload_reader:" in reader
    assert "evenload_writer:" not in reader


def test_an_env_file_with_another_mode_and_no_newline_is_mended(tmp_path: Path) -> None:
    (tmp_path / "infra").mkdir()
    script = tmp_path / "infra" / "secrets.sh"
    script.write_text((REPOSITORY / "infra" / "secrets.sh").read_text())
    env = tmp_path / ".env"
    env.write_text("MLFLOW_PORT=5001")
    env.chmod(0o644)
    subprocess.run(["bash", str(script)], check=True, capture_output=True)
    assert env.stat().st_mode & 0o777 == 0o600
    assert env.read_text().splitlines()[0] == "MLFLOW_PORT=5001"


@pytest.mark.parametrize("name", SERVICES)
def test_services_have_no_privileges_and_write_only_to_volumes_and_memory(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["read_only"] is True
    assert not {"privileged", "cap_add", "network_mode", "pid"} & service.keys()
    assert not [volume for volume in service.get("volumes", []) if "docker.sock" in volume]


def test_the_database_is_on_a_network_without_a_way_out() -> None:
    networks = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["networks"]
    assert networks["database"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == ["database"]
    for name, service in SERVICES.items():
        needs = "@postgres/" in str(service.get("environment")) or name == "postgres"
        assert ("database" in service["networks"]) is needs, name
