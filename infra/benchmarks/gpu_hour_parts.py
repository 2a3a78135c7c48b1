"""What the first hour on a GPU measures: one function per part."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PROFILED_STEPS = 3
NO_GPU = {  # dimensions for Triton's interpreter
    "vocab_size": 64,
    "num_layers": 2,
    "d_model": 16,
    "d_dense": 16,
    "num_experts": 4,
    "num_heads": 2,
    "top_k": 2,
    "d_expert": 8,
}
ROOT = Path(__file__).parents[2]
SCORED = ("tokens", "group_tokens", "by_k_tokens")  # of an evaluation

Figures = Iterator[tuple[str, Any]]


class CannotRun(Exception):
    """What a part needs is not here."""


class Part(NamedTuple):
    figures: Callable[[Path], Figures]  # yields names and figures; gets the folder of the results
    seconds: int  # predicted for an H200; also a third of its limit


def machine(_: Path) -> Figures:
    from infra.benchmarks.hardware import describe_machine
    from infra.benchmarks.moe_layer import gpu_state

    yield "machine", describe_machine()
    yield "gpu", gpu_state()


def correctness(_: Path) -> Figures:
    """Output and gradients of every arm against float32, then the tests for a GPU."""
    yield "relative_errors", dict(_errors())
    tests = ["tests/workers/kernels/test_gpu.py", "-k", "not memory_checker"]
    if not _on_gpu():
        yield "tests", "need a GPU"
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", *tests]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    yield "tests", {"exit_code": ended.returncode, "end": ended.stdout[-4000:]}
    if ended.returncode:
        raise AssertionError("tests for a GPU fail; see `tests`")


def _errors() -> Iterator[tuple[str, Any]]:
    import torch

    from infra.benchmarks import expert_arms, moe_layer

    device = torch.device(_device())
    dtype = torch.bfloat16 if _on_gpu() else torch.float32
    found = expert_arms.arms(device)[0]
    sizes = (1000, 256, 192, 16, 2) if _on_gpu() else (16, 24, 16, 4, 2)
    shape = moe_layer.Shape("check", *sizes)
    for routing, choose in moe_layer.ROUTINGS.items():
        case = moe_layer.make_case(shape, choose(shape), dtype, device)
        errors, failed = moe_layer.checked(case, found)
        yield routing, {**errors, **failed}


def memcheck(_: Path) -> Figures:
    """The layers of `correctness` again, under the memory checker."""
    import shutil

    if (tool := shutil.which("compute-sanitizer")) is None:
        raise CannotRun("compute-sanitizer is not installed")
    if not _on_gpu():
        raise CannotRun("needs a GPU")
    code = "from infra.benchmarks import gpu_hour; print(dict(gpu_hour._errors()))"
    # Every tensor gets an allocation of its own, with no readable memory next to it.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [tool, "--error-exitcode", "9", sys.executable, "-c", code]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    yield "exit_code", ended.returncode
    yield "end", ended.stdout[-4000:]
    if ended.returncode:
        raise AssertionError("the memory checker found something; see `end`")


def first_figure(_: Path) -> Figures:
    """One trial with the default evaluation, from nothing to its first figure."""
    from tempfile import TemporaryDirectory

    from evenload.pipeline.records.run import RunIdentity
    from evenload.pipeline.records.shards import LoadLogSink
    from evenload.pipeline.records.sinks import SinkGroup
    from evenload.pipeline.settings import Settings
    from evenload.pipeline.states import Command
    from evenload.workers.training.evaluate import evaluate
    from evenload.workers.training.loop import train

    for backend in _backends():
        spec = _trial("tiny", backend, steps=200 if _on_gpu() else 2)
        started, marks = time.perf_counter(), {}

        def report(
            progress: Any, marks: dict[str, float] = marks, since: float = started
        ) -> Command:
            marks.setdefault("first_step", time.perf_counter() - since)
            return Command.CONTINUE

        with TemporaryDirectory() as home:
            settings = Settings(home=Path(home))
            run = RunIdentity("0" * 16, "hour", None, 1, spec.model_dump(mode="json"))
            sink = SinkGroup([LoadLogSink(settings.trial_dir("0" * 16))])
            same = {"settings": settings, "digest": "0" * 16, "sink": sink, "run": run}
            outcome = train(spec, report=report, **same)
            marks["trained"] = time.perf_counter() - started
            figures = evaluate(spec, checkpoint_uri=outcome.checkpoint_uri, **same)
            marks["first_figure"] = time.perf_counter() - started
            sink.close()
        yield backend, {"seconds": marks, "figures": figures}


def steps(_: Path) -> Figures:
    """200 steps of the same trial on both back ends: the loss they reach and the time they take."""
    import torch

    curves: dict[str, list[float]] = {}
    for backend in _backends():
        step = _stepper(_trial("small", backend))
        losses, started = [], time.perf_counter()
        for _ in range(200 if _on_gpu() else 2):
            losses.append(step())
        curves[backend] = torch.stack(losses).tolist()
        yield backend, {"seconds": time.perf_counter() - started, "loss": curves[backend]}
    if len(curves) > 1:
        one, other = (torch.tensor(curve) for curve in curves.values())
        yield "largest_difference", float((one - other).abs().max())


def host_copies(_: Path) -> Figures:
    """What crosses to the host in a step: copies, and waits for the device."""
    from torch.profiler import ProfilerActivity, profile

    for backend in _backends():
        step = _stepper(_trial("small", backend))
        step()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if _on_gpu() else [])]
        with profile(activities=kinds) as found:
            for _ in range(PROFILED_STEPS):
                step()
        crossing = ("memcpy dtoh", "memcpy htod", "synchronize", "_local_scalar_dense")
        yield (
            backend,
            {
                event.key: event.count / PROFILED_STEPS
                for event in found.key_averages()
                if any(name in event.key.lower() for name in crossing)
            },
        )


def layer(_: Path) -> Figures:
    """`moe-layer`, one shape after another."""
    yield from _layers(slice(None))


def tuned_layer(folder: Path) -> Figures:
    """`moe-layer` of the main shape with the tiles of `tune`."""
    if not (folder / "tiles.json").exists():
        raise CannotRun("needs the part tune, which writes tiles.json")
    os.environ["EVENLOAD_TILES_FILE"] = str((folder / "tiles.json").resolve())
    yield from _layers(slice(1))


def _layers(which: slice) -> Figures:
    import torch

    from infra.benchmarks import moe_layer

    for shape in moe_layer.shapes_of(torch.device(_device()), quick=not _on_gpu())[which]:
        yield shape.name, moe_layer.run(not _on_gpu(), (shape,))


def routing(_: Path) -> Figures:
    from infra.benchmarks import routing as benchmark

    yield "routing", benchmark.run(quick=not _on_gpu())


def tune(folder: Path) -> Figures:
    import torch

    from evenload.workers.tuning.tile_search import Layer, save
    from evenload.workers.tuning.tile_search import tune as tune_tiles

    if not _on_gpu():
        raise CannotRun("needs a GPU: tiles are measured on the GPU that runs them")
    said: list[str] = []
    table = tune_tiles(Layer(2048, 1408, 64, 6), torch.device("cuda"), torch.bfloat16, said.append)
    save(table, folder / "tiles.json")
    yield "said", said
    yield "tiles", table


def flops(_: Path) -> Figures:
    """FLOP/s of steps of deepseekmoe-1b over those of a large product, beside a dense model."""
    import torch

    from evenload.pipeline.figures.model_size import model_size

    size, batch = (8192, 8) if _on_gpu() else (256, 1)
    dtype = torch.bfloat16 if _on_gpu() else torch.float32
    one, other = (torch.randn(size, size, device=_device()).to(dtype) for _ in range(2))
    peak = 2.0 * size**3 / _seconds(lambda: one @ other)
    yield "product_flops", peak
    preset = "deepseekmoe-1b"
    # All layers but one dense, as wide as the experts that a token passes.
    dense = {"num_dense_layers": 8, "d_dense": 8 * 528} if _on_gpu() else {"num_dense_layers": 1}
    arms = {name: (name, {}) for name in _backends()} | {"dense": ("torch", dense)}
    for name, (backend, changes) in arms.items():
        spec = _trial(preset, backend, changes, batch=batch, seq_len=2048 if _on_gpu() else 16)
        seconds = _seconds(_stepper(spec), turns=10 if _on_gpu() else 1)
        tokens, train = spec.train.tokens_per_step, spec.train
        done = tokens * model_size(spec.model).train_flops_per_token(train.seq_len) / seconds
        peak_bytes = torch.cuda.max_memory_allocated() if _on_gpu() else None
        yield (
            name,
            {
                "seconds": seconds,
                "tokens_per_second": tokens / seconds,
                "flops": done,
                "share": done / peak,
                "peak_bytes": peak_bytes,
            },
        )


def stacked(_: Path) -> Figures:
    """Eight tiny trials as one program over the eight in turn."""
    import torch

    from infra.benchmarks import stack_speed

    for shape in stack_speed.STEPS[:5] if _on_gpu() else stack_speed.QUICK:
        name = "{} {} x {}".format(*shape)
        yield name, stack_speed.step_figures(*shape, device=torch.device(_device()))


def collectives(_: Path) -> Figures:
    """The collectives of a group, in a group of one."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from evenload.workers.training.ranks import Ranks

    kind = "cpu:gloo,cuda:nccl" if _on_gpu() else "gloo"
    store = dist.HashStore()
    limit = timedelta(seconds=60)
    dist.init_process_group(kind, store=store, rank=0, world_size=1, timeout=limit)
    value = torch.ones(2**28 if _on_gpu() else 2**10, device=_device())
    out = torch.empty_like(value)
    alone = Ranks(0, 2)._replace(size=2)  # as in a group: with size 1 nothing is called
    calls: dict[str, Callable[[], object]] = {
        "sum": lambda: alone.sum(value),
        "barrier": alone.barrier,
        "all_to_all": lambda: dist.all_to_all_single(out, value),
    }
    for name, call in calls.items():
        try:
            yield name, {"seconds": _seconds(call), "bytes": value.nbytes}
        except RuntimeError as error:
            yield name, f"{type(error).__name__}: {error}".splitlines()[0]
    dist.destroy_process_group()


def energy(_: Path) -> Figures:
    import torch

    from evenload.workers.actors.energy import EnergyMeter

    step = _stepper(_trial("small", _backends()[-1]))
    step()
    meter = EnergyMeter(torch.device(_device()))
    for _ in range(100 if _on_gpu() else 1):
        step()
    if meter.joules() is None:
        raise CannotRun("no energy counter: it takes a GPU and pynvml")
    yield "energy", meter.per_step(100)


PARTS = {
    "machine": Part(machine, 15),
    "correctness": Part(correctness, 180),
    "memcheck": Part(memcheck, 180),
    "first_figure": Part(first_figure, 90),
    "steps": Part(steps, 60),
    "host_copies": Part(host_copies, 40),
    "layer": Part(layer, 180),
    "routing": Part(routing, 60),
    "tune": Part(tune, 185),
    "tuned_layer": Part(tuned_layer, 60),
    "flops": Part(flops, 120),
    "stacked": Part(stacked, 90),
    "collectives": Part(collectives, 30),
    "energy": Part(energy, 40),
}


# ---- what parts share ----


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _device() -> str:
    return "cuda" if _on_gpu() else "cpu"


def _backends() -> list[str]:
    """The back ends that run here, torch first."""
    from evenload.workers.kernels.triton_support import why_not

    return ["torch", *(["triton"] if why_not(_device()) is None else [])]


def _trial(
    preset: str,
    backend: str,
    model: dict[str, Any] | None = None,
    steps: int = 200,
    batch: int = 0,
    seq_len: int = 0,
) -> Any:
    """A trial with the precision that `auto` means here, on text without a download."""
    from evenload.pipeline.spec.presets import PRESETS
    from evenload.pipeline.spec.trial import TrialSpec
    from evenload.workers.training.identity import resolve

    seq_len, batch = seq_len or (512 if _on_gpu() else 16), batch or (16 if _on_gpu() else 2)
    model = (model or {}) if _on_gpu() else NO_GPU | (model or {})
    vocabulary = model.get("vocab_size", PRESETS[preset]["vocab_size"])
    return resolve(
        TrialSpec.model_validate(
            {
                "model": {"preset": preset, **model},
                "data": {"kind": "synthetic", "vocab_size": vocabulary, "num_tokens": 2_000_000},
                "balancer": {"kind": "self_tuned"},
                "train": {"steps": steps, "batch_sequences": batch, "seq_len": seq_len},
                "eval": {} if _on_gpu() else dict.fromkeys(SCORED, 32),
                "runtime": {"device": _device(), "backend": backend},
            }
        ),
        has_cuda=_on_gpu(),
    )


def _stepper(spec: Any) -> Callable[[], Any]:
    """A call that takes a training step on random tokens and returns its loss, on the device."""
    import torch

    from evenload.workers.training.setup import assemble
    from evenload.workers.training.step import train_step

    assembly = assemble(spec)
    generator = torch.Generator().manual_seed(0)
    state, train = assembly.state, spec.train
    shape = (train.batch_sequences, train.seq_len + 1)

    def step() -> Any:
        nonlocal state
        # Few different tokens, so that there is something to learn.
        token_BS = torch.randint(64, shape, generator=generator).square().remainder(64)
        output, state = train_step(assembly.trainee, state, [token_BS.to(assembly.device)], 0.5)
        return output.loss

    return step


def _seconds(call: Callable[[], object], turns: int = 5) -> float:
    """Median time of a call after two that warm up."""
    import torch

    from evenload.workers.tuning.timing import in_turn

    call()
    return in_turn({"": call}, torch.device(_device()), turns)[""].median
