"""What attach puts into a model, and takes out again: interceptors, biases, hooks."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from torch import nn

from evenload.workers.attach.bias import Home, Housed, Kind, Stopped, house, stop_others
from evenload.workers.attach.interception import Forward, Interceptor, intercept, release
from evenload.workers.attach.passes import Passes
from evenload.workers.attach.proof import Trial, Verdict
from evenload.workers.attach.routers import Probe, Router, find_routers

CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # have no forward
REPLACED = "has a forward that was replaced on the object: attach before that"


class Layer(NamedTuple):
    """One router and what became of it."""

    router: Router
    home: Home | None  # where its bias is; None: it is only recorded
    reason: str  # why it is only recorded
    found: Home | None = None  # where its bias is or could be, even if no rule moves it

    @property
    def name(self) -> str:
        return self.router.name

    @property
    def kind(self) -> Kind:
        if self.home is None:
            return "recorded"
        return "added" if self.home.is_added else "own"

    def __str__(self) -> str:
        name, _, num_experts, real, top_k, unit, *_ = self.router
        size = f"top {top_k} of {num_experts}"
        if real < num_experts:
            size += f", {num_experts - real} without computation"
        if self.home is None:
            return f"{name}: {size}, recorded only: {self.reason}"
        whose = "added" if self.home.is_added else "the model's own"
        return f"{name}: {size}, bias {self.home.name} ({whose}), in units of a {unit}"


class Attachment:
    """Everything of ours in a model. Between construction and `close` the model is attached."""

    def __init__(self, model: nn.Module, passes: Passes) -> None:
        self.model, self._passes = model, passes
        # Inside a forward FSDP2 shows whole tensors, so it is asked here.
        self._sharded = frozenset(
            Home(module, name)
            for module in model.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if hasattr(parameter, "placements")
        )
        self._interceptors: dict[nn.Module, Interceptor] = {}
        self._housed: list[Housed] = []
        self._stopped: list[Stopped] = []
        self.unseen: list[str] = []  # routers that can be neither balanced nor recorded, and why

    def try_out(
        self, probe: Probe, only: Collection[nn.Module] | None, with_bias: bool
    ) -> list[Layer]:
        """Finds the routers, puts the interceptors in and proves them on the probe batch.

        Args:     with_bias: False records only
        Returns:  the routers that can at least be recorded; `unseen` tells of the others
        Raises:   AttachError: no router found; call `close`
        """
        found = find_routers(self.model, probe, only)
        verdicts = self._verdicts(probe, found)
        layers = []
        for router in found:
            past = Verdict(None, REPLACED, is_seen=False)
            home, reason, is_seen = verdicts.get(router.module, past)
            if not is_seen:
                self.unseen.append(f"{router.name} {reason}")
                del self._interceptors[router.module]
                release(router.module)
                continue
            if not with_bias:
                reason = "the rule moves no bias"
            layers.append(Layer(router, None if reason else home, reason, home))
        return layers

    def _verdicts(self, probe: Probe, found: list[Router]) -> dict[nn.Module, Verdict]:
        routers = {router.module: router for router in found}
        parents = {child: each for each in self.model.modules() for child in each.children()}
        verdicts: dict[nn.Module, Verdict] = {}

        def judge(module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
            if module not in verdicts:
                trial = Trial(routers[module], parents.get(module), forward, args, kwargs)
                verdicts[module] = trial.verdict(self._sharded)
            return forward(*args, **kwargs)

        for router in found:
            interceptor = Interceptor(router.num_experts, router.top_k, self._passes)
            interceptor.judge = judge
            self._interceptors[router.module] = interceptor
            intercept(router.module, interceptor)
        probe.run(self.model)
        return verdicts

    def settle(self, layers: list[Layer], seen: Mapping[nn.Module, Callable[..., None]]) -> None:
        """Houses the biases, follows the forwards and lets `seen` have what routers select."""
        for layer in layers:
            if layer.home is not None:
                self._housed.append(house(layer.home, layer.router.num_experts))
                self._stopped += stop_others(layer.home)
        routers = set(self._interceptors)
        for router, interceptor in self._interceptors.items():
            interceptor.judge, interceptor.seen = None, seen[router]
        # Single layers are left alone: a hook breaks the graph that torch.compile makes of them.
        above = [m for m in self.model.modules() if len(routers.intersection(m.modules())) > 1]
        followed = {self.model, *above} - routers
        self._passes.follow((m for m in followed if not isinstance(m, CONTAINERS)), routers)

    def close(self) -> None:
        self._passes.close()
        for housed in reversed(self._housed):
            housed.leave()
        for stopped in self._stopped:
            stopped.go_on()
        for router in self._interceptors:
            release(router)
