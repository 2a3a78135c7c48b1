"""The experiments described in LOG.md: `python -m infra.research.experiments NAME`.

Each prints its table on standard output and gives the same bits every time. None needs a GPU;
`training` and `replay` train a small model on the CPU first.

Letters: T tokens, E experts, K top-k.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.scores import read_recording
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.simulation import (
    Adversarial,
    Correlated,
    Gaussian,
    HeavyTailed,
    Recorded,
    SimulationSpec,
    StreamSpec,
    Zipf,
)
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing import make_balancer, self_tuned
from evenload.workers.balancing.base import Balancer
from evenload.workers.simulation.advice import advise, estimate
from evenload.workers.simulation.findings import check_theory
from evenload.workers.simulation.rule_runner import observe
from evenload.workers.simulation.run import simulate
from evenload.workers.simulation.score_streams import Size, score_stream
from evenload.workers.simulation.theory_checks import check
from infra.research.assignment import optimality_gap
from infra.research.recorded_training import record, train_steps, transitions
from infra.research.rejected_rules import lag_one
from infra.research.tuned_comparison import compare, report, rule, tuned_rules

SMALL = Size(seeds=2, tokens=1024, experts=32, steps=300)
DRIFTS = (0.0, 0.002, 0.01, 0.03)


def _contenders(top_k: int) -> dict[str, Balancer]:
    return {
        "self_tuned": rule("self_tuned", top_k),
        "kalman": rule("kalman", top_k),
        "lag one": lag_one(),
    }


def drift() -> None:
    """Four drift rates, the cold start and the abrupt change, compared with tuned rules."""
    streams: dict[str, StreamSpec] = {f"drift {d:g}": Gaussian(drift=d) for d in DRIFTS}
    streams["abrupt"] = Gaussian(jump_at=0.5)
    for name, stream in streams.items():
        report(name, compare(_contenders(4), tuned_rules(4), stream, SMALL, 4))


def sizes() -> None:
    """Several numbers of experts, top-k and tokens per step, each at three drift rates."""
    shapes = [(2, 1, 1024), (4, 2, 1024), (16, 1, 1024), (16, 8, 1024), (64, 6, 1024)]
    shapes += [(256, 8, 2048), (16, 2, 256), (16, 2, 4096), (16, 2, 16384)]
    for (experts, top_k, tokens), d in itertools.product(shapes, (0.0, 0.01, 0.03)):
        seeds = max(1, min(8, 2**16 // (experts * tokens)))
        size = Size(seeds, tokens, experts, 250 if experts * tokens < 2**18 else 100)
        found = compare(_contenders(top_k), tuned_rules(top_k), Gaussian(drift=d), size, top_k)
        report(f"E={experts} K={top_k} T={tokens} drift {d:g}, {seeds} seeds", found)


def large_batch() -> None:
    """262,144 tokens per step, where the error of the curvature exceeds the noise."""
    size = Size(seeds=1, tokens=262_144, experts=8, steps=40)
    for d in (0.0, 0.01):
        found = compare(_contenders(2), tuned_rules(2), Gaussian(drift=d), size, 2)
        report(f"E=8 K=2 T=262144 drift {d:g}", found)


def streams() -> None:
    """Gates, tails, correlated tokens, token types and an adversary."""
    kinds: dict[str, Callable[..., StreamSpec]] = {
        "softmax": lambda drift: Gaussian(gate="softmax", drift=drift),
        "heavy-tailed": lambda drift: HeavyTailed(drift=drift),
        "correlated 0.3": lambda drift: Correlated(drift=drift),
        "correlated 0.8": lambda drift: Correlated(drift=drift, share=0.8),
        "zipf": lambda drift: Zipf(drift=drift),
        "zipf, little context": lambda drift: Zipf(drift=drift, context=0.1, vocab_size=200),
    }
    for (name, make), d in itertools.product(kinds.items(), (0.0, 0.01, 0.03)):
        found = compare(_contenders(4), tuned_rules(4), make(drift=d), SMALL, 4)
        report(f"{name}, drift {d:g}", found)
    for period in (5, 20, 100):
        found = compare(_contenders(4), tuned_rules(4), Adversarial(period=period), SMALL, 4)
        report(f"adversarial, period {period}", found)


def constants() -> None:
    """Halves and doubles every constant of self_tuned and compares the steady MaxVio."""
    values: dict[str, tuple[float, ...]] = {
        "NUM_GAINS": (5, 7, 11),
        "BAND": (0.1, 0.15, 0.6, 1.0),
        "CURVATURE_MEMORY": (0.8, 0.95),
        "ERROR_MEMORY": (0.9, 0.975),
        "SHARPNESS": (25.0, 50.0, 200.0, 1000.0),
        "LOST": (1.25, 5.0),
        "SURPRISE": (2.0, 8.0),
    }
    size = Size(seeds=4, tokens=1024, experts=16, steps=300)
    kinds = [Gaussian(), Gaussian(drift=0.01), Gaussian(drift=0.03), Gaussian(jump_at=0.6)]
    usual = [_steady(stream, size) for stream in kinds]
    print("                             still  drift .01  drift .03   jump")
    for name, choices in values.items():
        before = getattr(self_tuned, name)
        for value in choices:
            setattr(self_tuned, name, value)
            change = [_steady(s, size) / u - 1 for s, u in zip(kinds, usual, strict=True)]
            print(f"{name:18} {value:8g}", *(f"{100 * c:+8.1f} %" for c in change), flush=True)
        setattr(self_tuned, name, before)


def _steady(stream: StreamSpec, size: Size) -> float:
    only = {"self_tuned": rule("self_tuned", 2)}
    return compare(only, only, stream, size, 2)[0].max_vio


def gap() -> None:
    """Distance of each rule from the equally balanced exact optimum: N=512, E=8, K=2."""
    size = Size(1, 512, 8, 400)
    rules: dict[str, dict[str, Any]] = {
        "none": {"kind": "none"},
        "sign 0.01": {"kind": "sign", "step_size": 0.01},
        "sign 0.05/sqrt(n)": {"kind": "sign", "step_size": 0.05, "schedule": "inverse_sqrt"},
        "proportional 0.03": {"kind": "proportional", "step_size": 0.03},
        "quantile": {"kind": "quantile", "method": "exact"},
        "quantile memory 0.5": {"kind": "quantile", "method": "exact", "memory": 0.5},
        "kalman": {"kind": "kalman"},
        "self_tuned": {"kind": "self_tuned"},
        "sinkhorn": {"kind": "sinkhorn"},
        "bip": {"kind": "bip"},
        "random_router": {"kind": "random_router"},
    }
    score = next(iter(score_stream(Gaussian(), size, torch.Generator().manual_seed(0))))
    share_E = torch.full((8,), 1 / 8)
    for name, params in rules.items():
        torch.manual_seed(0)
        balancer = make_balancer(parse_balancer(params), 2)
        state = balancer.init(1, 8, torch.device("cpu"))
        for step in range(size.steps):
            seen = observe(balancer, state, score, 2, share_E, (step + 1) / size.steps)
            state = balancer.update(seen, state)
        chosen = balancer.adjust(score, state.bias_LE.unsqueeze(1))[0].topk(2).indices.numpy()
        found = optimality_gap(score[0].double().numpy(), chosen)
        vio = max_vio(np.bincount(chosen.ravel(), minlength=8))
        print(
            f"{name:20} MaxVio {vio:.4f}  value {found.value:9.3f}  best as even "
            f"{found.matched:9.3f}  gap over span {found.over_span:+.5f}"
        )


def regret() -> None:
    """Regret of every rule against the best fixed bias, with its growth and bound."""
    spec = SimulationSpec.model_validate(
        {
            "tokens": 256,
            "num_experts": 8,
            "top_k": 2,
            "steps": 1500,
            "seeds": 1,
            "streams": {"still": Gaussian(), "drift 0.01": Gaussian(drift=0.01)},
            "rules": [
                {"kind": "sign", "step_size": [0.001, 0.01]},
                {"kind": "sign", "step_size": [0.001, 0.3], "schedule": "inverse"},
                {"kind": "proportional", "step_size": [0.01, 0.05]},
                {"kind": "proportional", "step_size": 0.2, "schedule": "inverse_sqrt"},
                {"kind": "proportional", "step_size": 0.3, "schedule": "inverse"},
                {"kind": "quantile", "memory": [0.0, 0.9]},
                {"kind": "kalman"},
                {"kind": "self_tuned"},
            ],
        }
    )
    for finding in check_theory(spec):
        print(f"{finding.stream:12} {finding.rule:36} {finding.regret.finding}", flush=True)


def advice() -> None:
    """Compares advised step sizes with the best of a grid, at four drift rates."""
    for d in DRIFTS:
        size = SMALL._replace(seeds=1, steps=250)
        stream = score_stream(Gaussian(drift=d), size, torch.Generator().manual_seed(1))
        seen = estimate(np.stack([score[0].numpy() for score in stream]), 4)
        advised = advise(seen, SMALL.steps)
        usable = {
            f"advised {parse_balancer(a.rule).label}": make_balancer(parse_balancer(a.rule), 4)
            for a in advised
            if not a.refused and a.rule["kind"] != "self_tuned"
        }
        found = compare(usable, tuned_rules(4), Gaussian(drift=d), SMALL, 4)
        report(f"drift {d:g}: gain {seen.gain:.3f}, modulus {seen.modulus:.2f}", found)


def screen() -> None:
    """Times a screen of a hundred step sizes."""
    spec = SimulationSpec.model_validate(
        {
            "tokens": 1024,
            "num_experts": 32,
            "top_k": 4,
            "steps": 200,
            "seeds": 1,
            "streams": {"drift": Gaussian(drift=0.01)},
            "rules": [{"kind": "proportional", "step_size": np.geomspace(1e-4, 0.3, 100).tolist()}],
        }
    )
    start = time.perf_counter()
    rows = simulate(spec).rows()
    best = min(rows, key=lambda row: row["max_vio"])
    seconds = time.perf_counter() - start
    print(f"100 step sizes in {seconds:.1f} s; best {best['rule']} MaxVio {best['max_vio']:.4f}")


def cost() -> None:
    """Times one update and one measurement: 8 layers, E=64, K=6, 4096 tokens."""
    score = torch.rand(8, 4096, 64)
    share_E = torch.full((64,), 1 / 64)
    for kind in ("sign", "proportional", "quantile", "kalman", "self_tuned"):
        balancer = rule(kind, 6)
        state = balancer.init(8, 64, torch.device("cpu"))
        seen = observe(balancer, state, score, 6, share_E, 0.5)
        update = _seconds(lambda b=balancer, o=seen, s=state: b.update(o, s))  # type: ignore[misc]
        measure = 0.0
        if balancer.measure is not None:
            of = balancer.measure.of
            measure = _seconds(lambda of=of: of(score, torch.zeros(8, 1, 64), 6), 5)  # type: ignore[misc]
        print(f"{kind:14} update {1e3 * update:.2f} ms, measure {1e3 * measure:.1f} ms")


def _seconds(call: Callable[[], Any], repeats: int = 50) -> float:
    call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _trial(balancer: dict[str, Any], seed: int) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny", "num_experts": 32, "top_k": 4, "num_layers": 4},
            "train": {"steps": 200, "batch_sequences": 16, "seq_len": 128, "seed": seed},
            "balancer": balancer,
        }
    )


def training() -> None:
    """MaxVio while a small model trains, so that the rule also changes the router."""
    settings: list[dict[str, Any]] = [
        {"kind": "self_tuned"},
        {"kind": "kalman"},
        {"kind": "quantile"},
        {"kind": "quantile", "memory": 0.5},
        {"kind": "proportional", "step_size": 0.01},
        {"kind": "proportional", "step_size": 0.03},
        {"kind": "sign", "step_size": 0.01},
    ]
    for setting in settings:
        steps = list(train_steps(_trial(setting, 0), Path(tempfile.gettempdir()) / "evenload"))
        vio = np.array([max_vio(step.count_LE.numpy()).mean() for step in steps])
        loss = np.mean([step.loss for step in steps[-30:]])
        print(
            f"{parse_balancer(setting).label:24} MaxVio by quarter",
            *(f"{part.mean():.3f}" for part in np.split(vio, 4)),
            f"worst of the last {vio[-50:].max():.2f}, loss {loss:.3f}",
            flush=True,
        )


def replay() -> None:
    """Records a real run, replays its scores under every rule and checks theory on its updates."""
    with tempfile.TemporaryDirectory() as folder:
        trial = _trial({"kind": "proportional", "step_size": 0.02}, 0)
        path = Path(folder) / "run.npz"
        record(trial, path, corpus_dir=Path(tempfile.gettempdir()) / "evenload", tokens=2048)
        size = Size(seeds=3, tokens=2048, experts=32, steps=trial.train.steps)
        stream = Recorded(path=path)
        report("recorded", compare(_contenders(4), tuned_rules(4), stream, size, 4))
        for verdict in check(transitions(read_recording(path), layer=1, every=10)):
            print(f"  {verdict.statement}: {verdict.finding}; {verdict.figure}")


EXPERIMENTS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        drift,
        sizes,
        large_batch,
        streams,
        constants,
        gap,
        regret,
        advice,
        screen,
        cost,
        training,
        replay,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.research.experiments")
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    EXPERIMENTS[arguments.name]()


if __name__ == "__main__":
    main()
