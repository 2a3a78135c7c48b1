"""Checks the theory's statements about the dual update on the steps of a stream or a recorded run.

Each check reports in how many of all cases a statement held, with the deciding number and its
bound. All checks use float64.
Source: derived from the assignment dual that Han & Zhong 2025, arXiv:2512.03915, study; the
constants are ours and may differ from theirs.

Letters: T tokens, E experts, K top-k.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenload.workers.simulation import dual

OPTIMA = 5  # number of steps whose optimum is computed; it depends only on the scores


class Transition(NamedTuple):
    """One update of one layer, as `dual.change` takes it."""

    score_TE: Tensor
    bias_E: Tensor
    next_bias_E: Tensor
    load_E: Tensor  # wanted load
    top_k: int


class Verdict(NamedTuple):
    statement: str
    held: int
    cases: int
    figure: str  # the deciding number with its bound

    @property
    def finding(self) -> str:
        """The number of cases that held, in words."""
        if self.cases == 0:
            return "does not apply to any case"
        if self.held == self.cases:
            return f"holds in all {self.cases}"
        if self.held == 0:
            return f"violated in all {self.cases}"
        return f"holds in {100 * self.held / self.cases:.1f} % of {self.cases}"

    def to_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "finding": self.finding}


def check(transitions: Iterable[Transition], *, optimum_tokens: int = 512) -> list[Verdict]:
    """Checks every statement on the given updates.

    Args:     optimum_tokens: number of tokens in the statements about optima
    """
    cases = [
        Transition._make([*(value.double().cpu() for value in case[:4]), case.top_k])
        for case in transitions
    ]
    return [
        identity(cases),
        monotone(cases),
        sufficient(cases),
        preference(cases),
        approximate_balance(cases[:: max(1, len(cases) // OPTIMA)], optimum_tokens),
        convexity(cases),
        stability(cases),
    ]


def identity(cases: list[Transition]) -> Verdict:
    """D(p') - D(p) = sum_k d_k (A_k - L_k) + sum_i b_i with every b_i >= 0."""
    worst, smallest, held = 0.0, 0.0, 0
    for case in cases:
        moved = dual.change(*case)
        error = abs(moved.total - moved.linear - float(moved.benefit_T.sum())) / len(case.score_TE)
        least = float(moved.benefit_T.min())
        held += error <= 1e-9 and least >= -1e-12
        worst, smallest = max(worst, error), min(smallest, least)
    figure = f"largest error per token {worst:.1e} (bound 1e-9), smallest benefit {smallest:.1e}"
    return Verdict("one-step identity of the dual", held, len(cases), figure)


def monotone(cases: list[Transition]) -> Verdict:
    """D does not rise iff the benefits of switching do not exceed d . (L - A)."""
    fell, agreed, balance = 0, 0, []
    for case in cases:
        moved = dual.change(*case)
        benefit = float(moved.benefit_T.sum())
        predicted = benefit <= -moved.linear + 1e-9 * len(case.score_TE)
        observed = moved.total <= 1e-9 * len(case.score_TE)
        fell, agreed = fell + observed, agreed + (predicted == observed)
        if moved.linear < 0:
            balance.append(-benefit / moved.linear)
    median = f"{_median(balance):.2f}" if balance else "none promised"
    figure = f"median benefit / promise {median} (falls below 1); condition right in {agreed}"
    return Verdict("the dual falls in a step", fell, len(cases), figure)


def sufficient(cases: list[Transition]) -> Verdict:
    """If the largest difference of moves times the swaps is below d . (L - A), the dual falls."""
    held, judged, margin = 0, 0, []
    for case in cases:
        moved = dual.change(*case)
        step_E = case.next_bias_E - case.bias_E
        swaps = _swaps(case)[0].numel()
        # A token that switches from k to k' gains at most d_k' - d_k.
        bound = float(step_E.max() - step_E.min()) * swaps
        if bound < -moved.linear:
            judged += 1
            held += moved.total <= 1e-9 * len(case.score_TE)
            margin.append(-bound / moved.linear)
    figure = f"applies in {judged} of {len(cases)}"
    if margin:
        figure += f", median bound / promise {_median(margin):.2f}"
    return Verdict("few swaps: the dual must fall", held, judged, figure)


def preference(cases: list[Transition]) -> Verdict:
    """A token switches from k to k' only if d_k' > d_k and its margin is at most d_k' - d_k.

    For steps without memory it follows that tokens go from the fuller to the emptier expert; the
    figure has the share of swaps that do so.
    """
    obeyed, downhill, swaps = 0, 0, 0
    for case in cases:
        step_E = case.next_bias_E - case.bias_E
        dropped, taken, token = _swaps(case)
        rise = step_E[taken] - step_E[dropped]
        biased_TE = case.score_TE + case.bias_E
        margin = biased_TE[token, dropped] - biased_TE[token, taken]
        excess_E = dual.loads(case.score_TE, case.bias_E, case.top_k) - case.load_E
        obeyed += int(((rise > 0) & (margin <= rise + 1e-12)).sum())
        downhill += int((excess_E[dropped] > excess_E[taken]).sum())
        swaps += token.numel()
    share = f"{100 * downhill / swaps:.1f} %" if swaps else "none"
    figure = f"{swaps} swaps, {share} of them from the fuller to the emptier expert"
    return Verdict("preference rule", obeyed, swaps, figure)


def approximate_balance(cases: list[Transition], tokens: int) -> Verdict:
    """At the optimum of the dual at most E - 1 tokens tie, so every load error is at most E - 1."""
    held, worst = 0, 0.0
    num_experts = cases[0].score_TE.shape[-1] if cases else 0
    for case in cases:
        score_TE = case.score_TE[:tokens]
        load_E = case.load_E * len(score_TE) / len(case.score_TE)
        best_E = dual.minimiser(score_TE, load_E, case.top_k)
        error = float((dual.loads(score_TE, best_E, case.top_k) - load_E).abs().max())
        held += error <= num_experts - 1
        worst = max(worst, error)
    figure = f"largest load error at the optimum {worst:.1f} (bound E - 1 = {num_experts - 1})"
    return Verdict("approximate balance at the optimum", held, len(cases), figure)


def convexity(cases: list[Transition]) -> Verdict:
    """The tie-density graph is connected: mu > 0, so the dual is locally strongly convex."""
    moduli = [_spectrum(case).modulus for case in cases]
    held = sum(modulus > 1e-9 for modulus in moduli)
    figure = f"modulus mu from {min(moduli):.3g} to {max(moduli):.3g}" if moduli else "none"
    return Verdict("strong convexity (connected tie graph)", held, len(cases), figure)


def stability(cases: list[Transition]) -> Verdict:
    """The step is below the stability limit of a gradient step, 2 / lambda_max."""
    held, judged, shares = 0, 0, []
    for case in cases:
        load_E = dual.loads(case.score_TE, case.bias_E, case.top_k)
        error_E = (case.load_E - load_E) / len(case.score_TE)
        power = float(error_E @ error_E)
        if power == 0:
            continue
        # The multiple of the gradient that fits the step best.
        step = float((case.next_bias_E - case.bias_E) @ error_E) / power
        share = step * _spectrum(case).largest / 2
        held, judged = held + (share < 1), judged + 1
        shares.append(share)
    median = f"{_median(shares):.2f}" if shares else "none"
    figure = f"median step / limit {median}, largest {max(shares, default=float('nan')):.2f}"
    return Verdict("step below the stability limit", held, judged, figure)


def _spectrum(case: Transition) -> dual.Spectrum:
    return dual.spectrum(dual.tie_density(case.score_TE, case.bias_E, case.top_k))


def _swaps(case: Transition) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of an expert that a token leaves and one that it joins: (dropped, taken, token)."""
    before_TE, after_TE = (_chosen(case, bias) for bias in (case.bias_E, case.next_bias_E))
    lost_TE, won_TE = before_TE & ~after_TE, after_TE & ~before_TE
    pair_TEE = lost_TE.unsqueeze(-1) & won_TE.unsqueeze(-2)
    token, dropped, taken = pair_TEE.nonzero(as_tuple=True)
    return dropped, taken, token


def _chosen(case: Transition, bias_E: Tensor) -> Tensor:
    index_TK = (case.score_TE + bias_E).topk(case.top_k, dim=-1).indices
    return torch.zeros_like(case.score_TE, dtype=torch.bool).scatter(-1, index_TK, True)


def _median(values: list[float]) -> float:
    return float(torch.tensor(values).median())
