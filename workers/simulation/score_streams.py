"""Streams of artificial gate scores, in several kinds that are hard for a balancing rule.

Letters: S seeds (stacked where training stacks layers), T tokens, E experts, N steps.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from evenload.pipeline.records.scores import read_recording
from evenload.pipeline.spec import simulation as streams
from evenload.pipeline.spec.simulation import Recorded, StreamSpec

Artificial = (
    streams.Gaussian | streams.HeavyTailed | streams.Correlated | streams.Zipf | streams.Adversarial
)
Noise = Callable[[], Tensor]  # draws the tokens' own part of the logits of a step, (S, T, E)


class Size(NamedTuple):
    """Shape of a stream: `seeds` independent copies of (tokens, experts) for `steps` steps."""

    seeds: int
    tokens: int
    experts: int
    steps: int


def score_stream(stream: StreamSpec, size: Size, generator: torch.Generator) -> Iterator[Tensor]:
    """The scores of every step, float32 (S, T, E), on the generator's device.

    They depend only on the generator's state, so all rules can get the same scores.
    """
    if isinstance(stream, Recorded):
        return iter(recorded_scores(stream, generator.device))
    return _artificial_scores(stream, size, generator)


def recorded_scores(stream: Recorded, device: torch.device) -> Tensor:
    """The scores in a recording, float32 (N, S, T, E), with layers in place of seeds.

    Raises:   SpecError: the file is missing or not a recording
    """
    return torch.from_numpy(read_recording(stream.path).score_NLTE).to(device, torch.float32)


def _artificial_scores(
    stream: Artificial, size: Size, generator: torch.Generator
) -> Iterator[Tensor]:
    device = generator.device
    shape = (size.seeds, 1, size.experts)
    preference_S1E = stream.skew * torch.randn(shape, generator=generator, device=device)
    noise = _noise(stream, size, generator)
    jump = None if stream.jump_at is None else round(stream.jump_at * size.steps)
    for step in range(size.steps):
        if step == jump:
            preference_S1E = stream.skew * torch.randn(shape, generator=generator, device=device)
        logit_STE = noise() + _sign(stream, step) * preference_S1E
        yield torch.sigmoid(logit_STE) if stream.gate == "sigmoid" else logit_STE.softmax(dim=-1)
        step_S1E = torch.randn(shape, generator=generator, device=device)
        preference_S1E = preference_S1E + stream.drift * step_S1E


def _sign(stream: Artificial, step: int) -> int:
    flips = isinstance(stream, streams.Adversarial) and (step // stream.period) % 2
    return -1 if flips else 1


def _noise(stream: Artificial, size: Size, generator: torch.Generator) -> Noise:
    shape = (size.seeds, size.tokens, size.experts)

    def normal(shape: tuple[int, ...] = shape) -> Tensor:
        return torch.randn(shape, generator=generator, device=generator.device)

    if isinstance(stream, streams.HeavyTailed):
        return lambda: _student(normal(), stream.degrees, generator)
    if isinstance(stream, streams.Correlated):
        return lambda: _by_sequence(stream, size, normal)
    if isinstance(stream, streams.Zipf):
        return _by_type(stream, size, normal, generator)
    return normal


def _student(normal_STE: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Samples Student's t distribution by Bailey's polar formula.

    Source: Bailey 1994, Math. Comp. 62, 779; the normal draw gives sign and angle.
    """
    uniform_STE = torch.rand(normal_STE.shape, generator=generator, device=normal_STE.device)
    radius_STE = (degrees * (uniform_STE.clamp_min(1e-30).pow(-2 / degrees) - 1)).sqrt()
    angle_STE = torch.pi * torch.special.ndtr(normal_STE)
    return radius_STE * angle_STE.cos()


def _by_sequence(
    stream: streams.Correlated, size: Size, normal: Callable[[tuple[int, ...]], Tensor]
) -> Tensor:
    sequences = -(-size.tokens // stream.seq_len)
    shared_SNE = normal((size.seeds, sequences, size.experts))
    shared_STE = shared_SNE.repeat_interleave(stream.seq_len, dim=1)[:, : size.tokens]
    own_STE = normal((size.seeds, size.tokens, size.experts))
    return stream.share**0.5 * shared_STE + (1 - stream.share) ** 0.5 * own_STE


def _by_type(
    stream: streams.Zipf,
    size: Size,
    normal: Callable[[tuple[int, ...]], Tensor],
    generator: torch.Generator,
) -> Noise:
    device = generator.device
    rank_V = torch.arange(1, stream.vocab_size + 1, device=device, dtype=torch.float32)
    weight_V = rank_V.pow(-stream.exponent)
    type_VE = normal((stream.vocab_size, size.experts))

    def draw() -> Tensor:
        count = size.seeds * size.tokens
        token_N = torch.multinomial(weight_V, count, replacement=True, generator=generator)
        type_STE = type_VE[token_N].view(size.seeds, size.tokens, size.experts)
        return type_STE + stream.context * normal((size.seeds, size.tokens, size.experts))

    return draw
