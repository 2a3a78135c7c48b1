"""What readers of recorded loads need to know of a model and of its run, whatever the model is."""

from typing import NamedTuple

from evenload.pipeline.spec.spec_file import Frozen, PositiveInt


class LoadShape(Frozen):
    """The layers of a model that have experts. All have the same number of them."""

    layers: tuple[str, ...]
    """Names of the layers in their order, such as their numbers among all layers of the model."""
    num_experts: PositiveInt
    """Routed experts per layer."""
    top_k: PositiveInt
    """Experts that a router chooses for each token."""

    @property
    def num_layers(self) -> int:
        """Number of the layers that have experts."""
        return len(self.layers)


class RunOutline(NamedTuple):
    """What is known of a run's loads before its first step."""

    shape: LoadShape
    tokens: int | None  # of every optimizer step; None: not known, and then not checked
    steps: int | None  # planned ones; None: not known
    target_E: tuple[float, ...] | None  # target share per expert; None: the uniform share
