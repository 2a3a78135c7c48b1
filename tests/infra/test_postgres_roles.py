"""The roles of infra/postgres/databases.sql can do their work and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.store.sweep_store import SweepStore
from tests.faults.services import Postgres, as_postgres

SCRIPT = Path(__file__).resolve().parents[2] / "infra" / "postgres" / "databases.sql"
ROLES = ("evenload_owner", "evenload_writer", "evenload_reader", "mlflow")
SPEC = {
    "name": "roles",
    "base": {
        "model": {"preset": "tiny"},
        "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
        "balancer": {"kind": "none"},
    },
    "axes": {"train.seed": [0]},
}
pytestmark = [pytest.mark.postgres, pytest.mark.slow]  # a server of its own


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """The folder of a server whose database was set up by the script, with an older table."""
    if shutil.which("psql") is None:
        pytest.skip("no psql")
    folder = Path(tempfile.mkdtemp(prefix="evenload-roles-"))
    folder.chmod(0o755)
    (folder / "pg").mkdir()
    database = Postgres(folder / "pg")
    database.service.start()
    try:
        admin = ["psql", "-h", str(folder / "pg"), "-U", "postgres", "-v", "ON_ERROR_STOP=1"]
        made = [*admin, "-d", "postgres", "-c", "CREATE DATABASE evenload"]
        subprocess.run([*as_postgres(), *made], check=True, capture_output=True)
        older = [*admin, "-d", "evenload", "-c", "CREATE TABLE older (n int)"]
        subprocess.run([*as_postgres(), *older], check=True, capture_output=True)
        words = {f"POSTGRES_{n}_PASSWORD": n for n in ("OWNER", "WRITER", "READER", "MLFLOW")}
        subprocess.run(
            [*as_postgres(), *admin, "-d", "evenload", "-f", "-"],
            input=SCRIPT.read_bytes(),
            env=os.environ | words,
            check=True,
            capture_output=True,
        )
        yield folder / "pg"
    finally:
        database.service.end()
        shutil.rmtree(folder)


@pytest.fixture
def opened(server: Path) -> Iterator[Callable[..., SweepStore]]:
    """Opens the store as a role, and closes it after the test; the server waits for it."""
    with ExitStack() as stores:

        def open_one(role: str, **options: bool) -> SweepStore:
            store = SweepStore(f"postgresql+psycopg://{role}@/evenload?host={server}", **options)
            stores.callback(store.close)
            return store

        yield open_one


def test_each_role_does_its_work_and_is_refused_the_rest(
    opened: Callable[..., SweepStore],
) -> None:
    owner, writer, reader = (opened(role) for role in ROLES[:3])
    owner.migrate()
    writer.migrate()  # the schema is current, so it changes nothing
    sweep_id = writer.submit(SweepSpec.model_validate(SPEC))
    writer.set_priority(sweep_id, 3)
    assert [sweep.sweep_id for sweep in reader.sweeps()] == [sweep_id]
    with pytest.raises(SpecError, match="role may do"):
        reader.cancel(sweep_id)


def test_a_store_that_is_opened_to_read_refuses_to_write(
    opened: Callable[..., SweepStore],
) -> None:
    owner, shown = opened("evenload_owner"), opened("evenload_owner", read_only=True)
    owner.migrate()
    sweep_id = owner.submit(SweepSpec.model_validate(SPEC))
    with pytest.raises(SpecError, match="read-only"):
        shown.cancel(sweep_id)
    assert shown.sweep(sweep_id).state == "active"


@pytest.mark.parametrize("role", ROLES)
def test_no_role_runs_programs_or_leaves_its_database(server: Path, role: str) -> None:
    own = "mlflow" if role == "mlflow" else "evenload"
    other = "evenload" if role == "mlflow" else "mlflow"
    refused = (
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE ROLE more",
    )
    plain = {"host": str(server), "user": role}
    for statement in refused:
        with psycopg.connect(dbname=own, **plain) as connection:
            connection.execute("SET transaction_read_only = off")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
            connection.rollback()
    with pytest.raises(psycopg.OperationalError, match="CONNECT"):
        psycopg.connect(dbname=other, **plain)


def test_tables_of_an_older_volume_get_the_new_owner(server: Path) -> None:
    with psycopg.connect(host=str(server), user="evenload_writer", dbname="evenload") as one:
        one.execute("INSERT INTO older VALUES (1)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            one.execute("DROP TABLE older")
