"""Runs `evenload sweep run` as a job of a Ray cluster, through its Jobs API."""

import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from ray.job_submission import JobStatus, JobSubmissionClient

STOP_SECONDS = 150  # Ray's default of 3 s is too short for checkpoints


def run_as_job(
    address: str,
    sweep_id: str,
    sweep_file: Path,
    as_json: bool,
    slots: int | None,
    new_version: bool = False,
) -> int:
    """Runs the sweep file on the cluster, shows its output and returns its exit code.

    Only the file is sent; settings and code are those of the cluster. The job continues if this
    process ends; `ray job stop` stops it and waits for checkpoints.

    Raises:   ConnectionError: nothing answers at `address`; RuntimeError: the token is wrong
    """
    client = JobSubmissionClient(address)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(sweep_file, Path(folder) / "sweep.yaml")
        job_id = client.submit_job(
            entrypoint=_entrypoint(as_json, slots, new_version),
            submission_id=f"{sweep_id}-{secrets.token_hex(3)}",  # Ray accepts each id only once
            runtime_env={
                "working_dir": folder,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
            },
        )
    print(f"job {job_id} at {address}", file=sys.stderr)
    asyncio.run(_follow(client, job_id, sys.stderr if as_json else sys.stdout))
    if as_json:
        sys.stdout.write(_document(client.get_job_logs(job_id)))
    return 0 if client.get_job_status(job_id) is JobStatus.SUCCEEDED else 1


def _entrypoint(as_json: bool, slots: int | None, new_version: bool) -> str:
    options = [*(["--json"] if as_json else []), *([f"--slots {slots}"] if slots else [])]
    options += ["--new-version"] if new_version else []
    return " ".join(["evenload sweep run sweep.yaml", *options])


async def _follow(client: JobSubmissionClient, job_id: str, stream: TextIO) -> None:
    async for lines in client.tail_job_logs(job_id):
        print(lines, end="", file=stream)


def _document(log: str) -> str:
    """The JSON document in a log, which also contains standard error and lines of Ray."""
    lines = log.splitlines(keepends=True)
    if "{\n" not in lines or "}\n" not in lines:
        return ""
    first, last = lines.index("{\n"), len(lines) - 1 - lines[::-1].index("}\n")
    return "".join(lines[first : last + 1])
