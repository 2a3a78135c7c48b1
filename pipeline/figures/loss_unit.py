"""Units of losses."""

from typing import NamedTuple


class LossUnit(NamedTuple):
    """A unit of losses, and how many of it are one of the unit in which they are given."""

    name: str
    factor: float = 1.0

    @property
    def head(self) -> str:
        """For the head of a column."""
        return self.name[0].upper() + self.name[1:]

    @property
    def title(self) -> str:
        return f"held-out loss, {self.name}"


BITS_PER_BYTE, NATS_PER_TOKEN = LossUnit("bits per byte"), LossUnit("nats per token")
