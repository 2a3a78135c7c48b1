"""Measures the time of a step by kind of operation, with torch's profiler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

STEPS = 3
# The first match counts, so the order matters.
KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("scaled_dot_product",),
    "matrix products": ("mm", "bmm", "linear", "matmul"),
    "optimizer and clipping": ("adamw", "foreach"),
    "loss": ("softmax", "cross_entropy", "nll_loss"),
    "routing": ("topk", "sort", "scatter", "gather", "sigmoid", "cumsum", "histc", "one_hot"),
    "rows in and out": ("index", "embedding"),
    "activation": ("silu",),
    "norms": ("layer_norm", "rms_norm", "rsqrt", "pow", "mean", "vector_norm"),
    "copies": ("copy", "cat", "stack", "clone", "fill", "zero", "contiguous"),
    "other element-wise": ("mul", "add", "div", "sub", "sum", "neg", "sin", "cos", "exp", "where"),
}
DISPATCH = "dispatch and the rest"


def time_by_kind(step: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of a step by kind of operation, largest first; nested calls count separately.

    Most of the profiler's own cost, a few microseconds per operation, is in `DISPATCH`.
    """
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step()
    milliseconds: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        milliseconds[_kind(event.key)] += event.self_cpu_time_total / 1e3 / STEPS
    return dict(sorted(milliseconds.items(), key=lambda entry: -entry[1]))


def _kind(name: str) -> str:
    operation = name.removeprefix("aten::").lower()
    if not name.startswith("aten::"):
        return DISPATCH
    for kind, parts in KINDS.items():
        if any(part in operation for part in parts):
            return kind
    return DISPATCH
