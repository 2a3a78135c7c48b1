"""`evenload doctor`: checks what is installed, reachable and usable, and names remedies."""

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import psutil
import typer
from rich.table import Table
from rich.text import Text

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError, reason_of
from evenload.pipeline.extras import remedy
from evenload.pipeline.redaction import redacted, secrets
from evenload.pipeline.settings import Settings
from evenload.workers.cli.session import load_settings, log, open_store, out, print_json
from evenload.workers.cuda import has_cuda
from evenload.workers.kernels.backends import resolve_backend

GIB = 2**30
LONGEST_TMPDIR = 40  # a socket has at most 107 characters, of which Ray takes about 65


class Check(NamedTuple):
    part: str
    usable: bool
    detail: str
    remedy: str = ""
    required: bool = True


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    home: Annotated[Path | None, typer.Option(help="folder with store and shards")] = None,
) -> None:
    """Check what works on this machine; exit with 1 if a required part does not."""
    settings = load_settings(home)
    with log.status("checking"):
        checks = [_survived(part, probe, settings) for part, probe in PROBES.items()]
    if as_json:
        print_json({"checks": [check._asdict() for check in checks]})
    else:
        out.print(_table(checks))
    if any(check.required and not check.usable for check in checks):
        raise typer.Exit(1)


def _survived(part: str, probe: Callable[[Settings], Check], settings: Settings) -> Check:
    """The result of a probe. A part that is broken in a way nobody foresaw is named as well."""
    try:
        return probe(settings)
    except Exception as error:  # noqa: BLE001
        reason = redacted(reason_of(error), secrets(settings))
        return Check(part, False, reason, "repair, replace or remove it")


def _table(checks: list[Check]) -> Table:
    table = Table("part", "", "what", "remedy")
    for check in checks:
        colour = "green" if check.usable else "red" if check.required else "yellow"
        mark = Text("ok" if check.usable else "no", colour)
        table.add_row(check.part, mark, check.detail, "" if check.usable else check.remedy)
    return table


def _python(_: Settings) -> Check:
    memory = psutil.virtual_memory().total / GIB
    cores = psutil.cpu_count(logical=True)
    detail = f"{platform.python_version()} on {platform.system()}, {cores} cores, {memory:.0f} GiB"
    return Check("machine", True, detail)


def _disk(settings: Settings) -> Check:
    nearest = next(place for place in (settings.root, *settings.root.parents) if place.exists())
    if not os.access(nearest, os.W_OK):
        return Check("disk", False, f"{nearest} cannot be written", "set EVENLOAD_HOME")
    free = shutil.disk_usage(nearest).free / GIB
    return Check("disk", free > 1, f"{free:.0f} GiB free at {settings.root}", "free some space")


def _temporary(_: Settings) -> Check:
    folder = tempfile.gettempdir()
    remedy = "set TMPDIR to a shorter path that can be written"
    if len(folder) > LONGEST_TMPDIR:
        detail = f"{folder} is longer than {LONGEST_TMPDIR} characters, too long for Ray's sockets"
        return Check("temporary files", False, detail, remedy)
    with tempfile.NamedTemporaryFile():
        return Check("temporary files", True, folder)


def _gpu(_: Settings) -> Check:
    if not _can_use_cuda():
        remedy = "optional; EVENLOAD_TORCH=cuda bash infra/install.sh"
        return Check("GPU", False, "no CUDA device", remedy, required=False)
    import torch

    names = {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}
    return Check("GPU", True, f"{torch.cuda.device_count()} x {', '.join(sorted(names))}")


def _backend(name: str) -> Callable[[Settings], Check]:
    def probe(_: Settings) -> Check:
        try:
            resolved = resolve_backend(name, "cuda" if _can_use_cuda() else "cpu")
        except SpecError as error:
            return Check(f"backend {name}", False, str(error), "optional", required=False)
        return _installed("torch")._replace(part=f"backend {name}", detail=f"runs on {resolved}")

    return probe


def _ray(_: Settings) -> Check:
    found, address = _installed("ray"), os.environ.get("RAY_ADDRESS")
    if not found.usable:
        return found
    if address is None:
        return found._replace(detail=f"{found.detail}, a private cluster on this machine")
    from evenload.workers.actors.ray_cluster import probe_ray

    usable, detail = probe_ray(address)
    remedy = "unset RAY_ADDRESS or start that cluster"
    return Check("ray", usable, f"{found.detail}, {detail}", remedy)


def _store(settings: Settings) -> Check:
    try:
        if settings.database_url is None and not settings.has_store:
            return Check("store", True, f"none yet in {settings.root}; the first sweep makes it")
        sweeps = len(open_store(settings).sweeps())
    except SpecError as error:
        return Check("store", False, str(error), "check EVENLOAD_HOME and EVENLOAD_DATABASE_URL")
    return Check("store", True, f"{sweeps} sweeps in {shown_address(settings.store_url)}")


def _mlflow(settings: Settings) -> Check:
    found, where = _installed("mlflow"), shown_address(settings.mlflow_uri)
    if not found.usable:
        return found
    if settings.tracking_uri is None and not (settings.root / "mlflow.db").exists():
        return found._replace(detail=f"{found.detail}, no run yet at {where}")
    from evenload.pipeline.records.mlflow_runs import probe

    problem = redacted(probe(settings) or "", secrets(settings))
    return Check("mlflow", not problem, problem or f"{found.detail} at {where}", "start the server")


def _installed(library: str) -> Check:
    """Reads the version without importing the library, which would take seconds."""
    try:
        return Check(library, True, importlib.metadata.version(library))
    except importlib.metadata.PackageNotFoundError:
        return Check(library, False, "not installed", remedy(library), required=False)


def _can_use_cuda() -> bool:
    return _installed("torch").usable and has_cuda()


PROBES: dict[str, Callable[[Settings], Check]] = {
    "machine": _python,
    "disk": _disk,
    "temporary files": _temporary,
    "torch": lambda _: _installed("torch"),
    "GPU": _gpu,
    "backend torch": _backend("torch"),
    "backend triton": _backend("triton"),
    "ray": _ray,
    "store": _store,
    "mlflow": _mlflow,
}
