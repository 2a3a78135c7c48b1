"""evenload finds the balancing rule and step size that keep every expert of an MoE model busy.

The public interface. Each name is imported on first use, so that `import evenload` is fast:

    Client      sweeps, trials and expert loads of a home, for notebooks and scripts
    load_sweep  reads and checks a sweep file
    attach      balances the experts of your own model (needs torch)
    TrainerCallback  the same as a callback of the Hugging Face Trainer (needs transformers)
    balancer    a balancing rule by its name: pure functions over tensors (needs torch)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from evenload.pipeline.client import Client as Client
    from evenload.pipeline.spec.sweep import load_sweep as load_sweep
    from evenload.workers.attach import attach as attach
    from evenload.workers.attach.trainer_callback import TrainerCallback as TrainerCallback
    from evenload.workers.balancing import balancer as balancer

_MODULES = {
    "Client": "evenload.pipeline.client",
    "load_sweep": "evenload.pipeline.spec.sweep",
    "attach": "evenload.workers.attach",
    "TrainerCallback": "evenload.workers.attach.trainer_callback",
    "balancer": "evenload.workers.balancing",
}

__all__ = ["Client", "TrainerCallback", "__version__", "attach", "balancer", "load_sweep"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"evenload has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
