"""Computes the identity of a trial from its spec, its data and the code of the numerical core."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from evenload.pipeline.errors import SpecError, first_message, shown
from evenload.pipeline.records.parquet_files import replace
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.data import DataSpec
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.permitted_paths import check_paths
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.cuda import has_cuda as finds_cuda
from evenload.workers.data.corpus import check_fits, file_parts, prepare
from evenload.workers.kernels.backends import check_widths, resolve_backend
from evenload.workers.training.compilation import check_compiler

WORKERS = Path(__file__).parent.parent
CORE = ("kernels", "model", "data", "training")
OTHERS = ("model/others", "attach")
PARSING = threading.Lock()  # in CPython 3.11 two threads that parse at once raise SystemError
BUILDS_ON = {"frozen_router": ("proportional",)}


def resolve(spec: TrialSpec, has_cuda: bool | None = None) -> TrialSpec:
    """The spec with every `auto` replaced by the value for this machine.

    Args:     has_cuda: whether the workers have a GPU; None: they run on this machine
    Raises:   SpecError: the device or back end cannot run here or not with these widths; the
              workers run on this machine, and it has no compiler for `train.compile`
    """
    cuda = finds_cuda() if has_cuda is None else has_cuda
    device = spec.runtime.device
    if device == "cuda" and not cuda:
        raise SpecError("runtime.device='cuda': there is no CUDA device here; use cpu or auto")
    if device == "auto":
        device = "cuda" if cuda else "cpu"
    backend = resolve_backend(spec.runtime.backend, device)
    runtime = spec.runtime.model_copy(update={"device": device, "backend": backend})
    train = spec.train
    if train.precision == "auto":
        # Another model's routers and residual stream might not stay in float32.
        low = device == "cuda" and isinstance(spec.model, ModelSpec)
        train = train.model_copy(update={"precision": "bfloat16" if low else "float32"})
    resolved = spec.model_copy(update={"runtime": runtime, "train": train})
    if isinstance(spec.model, ModelSpec):
        number_bytes = 2 if train.precision == "bfloat16" else 4
        check_widths(backend, spec.model.d_model, spec.model.d_expert, number_bytes)
    else:
        resolved = _with_other_model(resolved)
    if has_cuda is None:
        check_compiler(resolved)
    return resolved


def _with_other_model(spec: TrialSpec) -> TrialSpec:
    """The spec with what its model was found to be, after checking that the rest fits to it."""
    from evenload.workers.model.kinds import resolved_model
    from evenload.workers.training.fit import check_rule

    try:
        spec = TrialSpec.model_validate(
            spec.model_dump() | {"model": resolved_model(spec.model).model_dump()}
        )
    except ValidationError as error:
        raise SpecError(first_message(error)) from None
    check_rule(spec)
    return spec


def with_digests(trials: Sequence[TrialSpec], settings: Settings) -> list[tuple[str, TrialSpec]]:
    """Resolved trials, each with its identity. A corpus that several share is looked at once."""
    root = settings.corpus_dir
    corpora = {data: corpus_digest(data, root) for data in {trial.data for trial in trials}}
    return [
        (trial.digest(corpora[trial.data], core_version_of(trial, settings)), trial)
        for trial in trials
    ]


def basis(trials: Sequence[TrialSpec], settings: Settings) -> dict[str, str]:
    """What the digests of resolved trials cover beside the specs: versions by name.

    The home keeps of which parts each version is made, so that `changes` can name what changed.
    """
    found = {}
    for data in dict.fromkeys(trial.data for trial in trials):
        name, version_ = (
            shown(data.model_dump(mode="json")),
            corpus_digest(data, settings.corpus_dir),
        )
        found[f"data {name}"] = version_
        _keep_parts(settings, version_, partial(file_parts, data))
    for trial in {(trial.balancer.kind, trial.model.kind): trial for trial in trials}.values():
        version_ = core_version_of(trial, settings)
        found[f"code for {trial.balancer.kind}, model {trial.model.kind}"] = version_
        _keep_parts(settings, version_, partial(_core_parts, trial, settings))
    return found


def changes(before: dict[str, str], now: dict[str, str], settings: Settings) -> list[str]:
    """One line for each file or other part that differs, with its old and its new version."""
    lines = []
    for name in before | now:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        was, is_ = (_parts_of(settings, each) for each in (old, new))
        parts = [part for part in was | is_ if was.get(part) != is_.get(part)]
        if was and is_ and parts:
            lines += [f"{part}: {was.get(part, '-')} -> {is_.get(part, '-')}" for part in parts]
        else:
            lines.append(f"{name}: {old or 'not recorded'} -> {new or 'not used'}")
    return list(dict.fromkeys(lines))


def _keep_parts(settings: Settings, version_: str, find: Callable[[], dict[str, str]]) -> None:
    path = settings.root / "versions" / f"{version_}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        replace(path, json.dumps(find()).encode())


def _parts_of(settings: Settings, version_: str | None) -> dict[str, str]:
    """The parts of a version; empty if they are not known here."""
    try:
        return dict(json.loads((settings.root / "versions" / f"{version_}.json").read_text()))
    except (OSError, ValueError):
        return {}


def check_identity(spec: TrialSpec, digest: str, settings: Settings, corpus: str) -> None:
    """Checks that this worker would compute the trial that was listed, and not another one.

    Args:     corpus: digest of the data as this worker has just read it
    Raises:   SpecError: its data or its code differ, or the data is not where specs may read
    """
    check_paths(spec.data, settings.data_root, spec.model)
    core = core_version_of(spec, settings)
    if settings.check_identity and spec.digest(corpus, core) != digest:
        raise SpecError(
            f"trial {digest} was listed with other data or other code than this worker has (data "
            f"{corpus}, code {core}); run the same version everywhere, and if the data changed on "
            "purpose, submit the sweep again"
        )


def core_version_of(spec: TrialSpec, settings: Settings) -> str:
    """The version of all code and tables that compute this trial."""
    version_ = core_version(spec.balancer.kind, spec.model.kind)
    if not spec.runtime.backend.startswith("triton"):
        return version_
    own = settings.tiles_file.read_bytes() if settings.tiles_file else b""
    tiles = (WORKERS / "kernels" / "tiles.json").read_bytes() + own
    return hashlib.sha256(version_.encode() + tiles).hexdigest()[:12]


def identify(
    proposed: Sequence[TrialSpec], settings: Settings, has_cuda: bool | None = None
) -> list[tuple[str, TrialSpec]]:
    """Digests and resolved specs of the proposed trials, after checking that they can run.

    Args:     has_cuda: whether the workers have a GPU; None: they run on this machine
    Raises:   SpecError: the home cannot be written, a device or back end cannot run, or a corpus
              does not fit
    """
    return with_digests(checked(proposed, settings, has_cuda), settings)


def checked(
    proposed: Sequence[TrialSpec], settings: Settings, has_cuda: bool | None = None
) -> list[TrialSpec]:
    """The trials of `identify` without their digests, which need torch."""
    settings.make_home(to_write=True)  # corpora are written there
    asked = [_with_parent_spec(trial, settings) for trial in proposed]
    for trial in asked:
        check_paths(trial.data, settings.data_root, trial.model)
    trials = [resolve(trial, has_cuda) for trial in asked]
    corpora = {data: prepare(data, settings.corpus_dir) for data in {t.data for t in trials}}
    for trial in trials:
        check_fits(trial, corpora[trial.data])
    return trials


def _with_parent_spec(trial: TrialSpec, settings: Settings) -> TrialSpec:
    """A trial that extends another takes everything except the number of steps from it."""
    if trial.extends is None:
        return trial
    from evenload.pipeline.store.sweep_store import SweepStore  # which a benchmark need not have

    parent = SweepStore(settings.store_url).trial(trial.extends)
    train = parent.spec["train"]
    if trial.train.steps <= train["steps"]:
        raise SpecError(
            f"train.steps={trial.train.steps}: the extended trial {parent.digest} already has "
            f"{train['steps']} steps; choose more"
        )
    longer = {"train": train | {"steps": trial.train.steps}, "extends": trial.extends}
    return TrialSpec.model_validate(parent.spec | longer)


def corpus_digest(data: DataSpec, root: Path) -> str:
    return prepare(data, root).digest


@cache
def core_version(balancer_kind: str, model_kind: str = "own") -> str:
    """12 hex digits over torch's version and what the numerical core and one rule compute.

    Comments, docstrings and the layout of the sources do not count, and neither does for which
    device torch was built.
    Other rules are left out, so adding a rule does not change the identity of finished trials. What
    only other models than evenload's own need belongs to the identity of their trials alone.
    """
    import torch

    digest = hashlib.sha256(torch.__version__.partition("+")[0].encode())
    if model_kind != "own":
        digest.update(model_kind.encode())
    if model_kind == "huggingface":
        digest.update(version("transformers").encode())
    for path in _sources(balancer_kind, model_kind):
        digest.update(path.name.encode() + computed_by(path.read_text()).encode())
    return digest.hexdigest()[:12]


def _sources(balancer_kind: str, model_kind: str) -> list[Path]:
    # Without subfolders of a room, because their code runs after the trial.
    rooms = (*CORE, *(OTHERS if model_kind != "own" else ()))
    paths = [path for room in rooms for path in (WORKERS / room).glob("*.py")]
    return sorted([*paths, WORKERS / "selection.py", *_rule_sources(balancer_kind)])


def _core_parts(trial: TrialSpec, settings: Settings) -> dict[str, str]:
    """The versions of all that `core_version_of` covers, by name."""
    import torch

    parts = {"torch": torch.__version__.partition("+")[0]}
    if trial.model.kind == "huggingface":
        parts["transformers"] = version("transformers")
    for path in _sources(trial.balancer.kind, trial.model.kind):
        parts[str(path.relative_to(WORKERS.parent))] = _short(
            computed_by(path.read_text()).encode()
        )
    if trial.runtime.backend.startswith("triton"):
        for tiles in filter(None, (WORKERS / "kernels" / "tiles.json", settings.tiles_file)):
            parts[str(tiles)] = _short(tiles.read_bytes())
    return parts


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


@cache
def computed_by(source: str) -> str:
    """The source of a module without comments, docstrings and layout."""
    with PARSING:
        return ast.unparse(_WithoutTexts().visit(ast.parse(source)))


class _WithoutTexts(ast.NodeTransformer):
    """Leaves out texts that stand alone."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node


def _rule_sources(kind: str) -> list[Path]:
    """The file of the rule, the rules it builds on, and the files that all rules share."""
    own = {kind, *BUILDS_ON.get(kind, ())}
    return [
        path
        for path in (WORKERS / "balancing").glob("*.py")
        if path.stem in own or path.stem not in BALANCERS
    ]


@cache
def source_commit() -> str:
    """The git commit of the running code; without git, EVENLOAD_COMMIT names it."""
    if stated := os.environ.get("EVENLOAD_COMMIT"):
        return stated
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "-C", str(WORKERS), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
