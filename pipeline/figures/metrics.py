"""The table of metrics: the name of every figure, and how it is computed, shown and rated.

The glossary, all tables, the report, the exporter and the client read it. To add a metric, add a
function and an entry here.

Letters in formulas: A assignments of an expert, L its fair share, r = A / L, E experts, K top-k,
T tokens of an optimizer step, S steps, b selection biases.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.figures.loads import (
    Array,
    Loads,
    Target,
    avg_vio,
    by_blocks,
    dead_tenth,
    diversity,
    effective_util,
    idle_frac,
    idle_streak_max,
    load_cv,
    max_vio,
    min_vio,
)
from evenload.pipeline.figures.wording import number

Moment = Literal["step", "run", "evaluation"]
Better = Literal["lower", "higher"] | None
Compute = Callable[[Loads], float]


class Quantity(NamedTuple):
    """The unit of a figure, its format, and whether lower or higher is better."""

    unit: str
    format: str = ",.4g"
    better: Better = None


class Scale(NamedTuple):
    """How values become colours."""

    best: float | None  # the value of the best colour; None: the best value of those compared
    least_span: float  # smallest distance from the best value to that of the worst colour
    is_log: bool = False  # then one collapsed setting does not make all others look alike


@dataclass(frozen=True)
class Metric:
    """One figure, which a trial may have for its steps, its whole run or its evaluation."""

    name: str
    title: str
    meaning: str  # a phrase, for tooltips
    formula: str  # LaTeX
    unit: str
    format: str  # for Python's `format`; that of a share ends with %
    better: Better
    window: str
    source: str
    compute: Compute | None = None  # None: training, evaluation or a page computes it
    of: tuple[Moment, ...] = ()  # empty: it is only drawn
    floor: str | None = None  # the metric with the value that chance alone gives
    head: str = ""  # title in tables of trials; empty: they do not show it
    scale: Scale | None = None  # colours in grids of settings; None: they do not show it

    @property
    def is_share(self) -> bool:
        return self.format.endswith("%")

    def shown(self, value: Any) -> str:
        """A number, or an `Interval`, in this metric's format; a dash if it is missing."""
        return number(value, self.format)

    def colour_range(self, values: Sequence[float]) -> tuple[float, float]:
        """The values of the best and of the worst colour, if these values are compared."""
        scale = self.scale or Scale(None, 0.0)
        worst, best, sign = (min, max, -1) if self.better == "higher" else (max, min, 1)
        start = best(values, default=0.0) if scale.best is None else scale.best
        return start, worst([start + sign * scale.least_span, *values])

    def badness(self, value: float, values: Sequence[float]) -> float:
        """How bad a value is among these, from 0 (best colour) to 1 (worst colour)."""
        start, end = self.colour_range(values)
        share = (value - start) / (end - start)
        if self.scale is None or not self.scale.is_log:
            return share
        stretch = abs(end - start) / self.scale.least_span
        return math.log1p(share * stretch) / math.log1p(stretch)


def steady(figure: Callable[[NDArray[Any], Target], Array]) -> Compute:
    """The figure's mean over layers and the last quarter of the steps."""
    return lambda loads: float(by_blocks(figure, loads.steady_SLE, loads.target_E).mean())


def worst_layer(figure: Callable[[NDArray[Any], Target], Array]) -> Compute:
    """The figure's mean over the last quarter of the steps, in the layer where it is largest."""
    return lambda loads: float(
        by_blocks(figure, loads.steady_SLE, loads.target_E).mean(axis=0).max()
    )


def max_vio_ratio(loads: Loads) -> float:
    floor = loads.max_vio_floor
    return steady(max_vio)(loads) / floor if floor > 0 else math.nan


def count_check(loads: Loads) -> float:
    sum_SL = loads.count_SLE.sum(axis=-1, dtype=np.int64)
    return float((sum_SL == loads.tokens * loads.top_k).all())


STEADY = "optimizer step; mean over layers and the last quarter of the steps"
STEP = "one optimizer step"
EVALUATION = "the whole evaluation set, biases frozen"
RUN = "the whole run"
BIN = "the last step of each bin of time"
WANG = "Wang et al. 2024, arXiv:2408.15664"
HAN = "Han & Zhong 2025, arXiv:2512.03915"
NAMED = "named as in arXiv:2502.15451"
EVENLOAD = "evenload"
VIO = r"\frac{\max_e A_e}{L} - 1"
CHANCE = r"\frac{1}{L}\,\mathbb{E}\Big[\max_e A_e\Big] - 1"
EXCESS = Quantity("× fair share", ".2f", "lower")
EXCESS_3 = Quantity("× fair share", ".3f", "lower")
FLOOR = Quantity("× fair share", ".2f")
LOAD = Quantity("× fair share")
BITS = Quantity("bits per byte", ".3f", "lower")
NATS = Quantity("nats per token", ".4f", "lower")
LOST = Quantity("%", ".1%", "lower")
BIAS = Quantity("score units")
STEPS = Quantity("steps", ",.0f")
TOKENS = Quantity("tokens", ",.0f")

# fmt: off
_TABLE = (
    # The quality of the model on held-out text.
    Metric("val_bits_per_byte", "Validation loss",
        "held-out loss per byte of text; comparable across tokenisers",
        r"\frac{1}{\ln 2}\,\frac{\sum \mathrm{loss}}{\#\,\mathrm{bytes}}", *BITS, EVALUATION,
        "Gao et al. 2020, arXiv:2101.00027", of=("evaluation",), head="Bits per byte",
        scale=Scale(None, 0.05)),  # within that much is a seed's luck
    Metric("val_loss", "Validation loss, per token", "held-out loss",
        r"-\frac{1}{T}\sum_i \ln p(x_i \mid x_{<i})", *NATS, EVALUATION, EVENLOAD,
        of=("evaluation",)),
    Metric("val_perplexity", "Perplexity", "exp of the held-out loss", r"\exp(\mathrm{loss})",
        "per token", ",.2f", "lower", EVALUATION, EVENLOAD, of=("evaluation",)),
    Metric("val_bits_per_byte_worst_group", "Validation loss, worst domain",
        "held-out loss per byte of the domain of text that is hardest to predict",
        r"\max_g \mathrm{loss}_g", *BITS, "held-out tokens of each domain, about as many of each",
        EVENLOAD, of=("evaluation",)),
    Metric("leaked_share", "Held-out text seen in training",
        "share of the held-out words in runs of 50 that a training document has as well",
        r"\frac{\#\{\text{held-out words in a run of 50 that is also in training}\}}"
        r"{\#\{\text{held-out words}\}}", *LOST, "all held-out documents of the corpus",
        "runs of 50 as in Lee et al. 2022, arXiv:2107.06499", of=("evaluation",)),
    # How evenly the experts are loaded.
    Metric("utilisation", "Load over fair share",
        "assignments of an expert over what an even split would give it; 1 is fair",
        r"r_e = \frac{A_e}{L}, \qquad L = \frac{K\,T}{E}", *LOAD,
        "as the page states: a step, several steps summed, or the evaluation set",
        f"{EVENLOAD}; counts are summed before the ratio is formed"),
    Metric("max_vio_global", "MaxVio, global", "MaxVio of the loads summed over the evaluation set",
        VIO, *EXCESS, EVALUATION, WANG, steady(max_vio), of=("evaluation",),
        floor="max_vio_global_floor", head="MaxVio global"),
    Metric("max_vio_global_floor", "Global sampling floor",
        "global MaxVio by chance alone, over as many tokens and the same target", CHANCE, *FLOOR,
        EVALUATION, EVENLOAD, lambda loads: loads.max_vio_floor, of=("evaluation",),
        head="Global floor"),
    Metric("max_vio", "MaxVio",
        "load of the fullest expert in a step over its fair share, minus 1; 0 is even",
        rf"\mathrm{{MaxVio}} = {VIO}", *EXCESS, STEADY, f"{WANG}, eq. 4", steady(max_vio),
        of=("step", "run"), floor="max_vio_floor", head="MaxVio batch",
        scale=Scale(0.0, 1.0, is_log=True)),
    Metric("max_vio_floor", "Sampling floor",
        "MaxVio that a perfectly fair random router shows by chance at this T, E and K",
        CHANCE + r", \qquad A_e \sim \mathrm{Binomial}\big(T, \tfrac{K}{E}\big),\ "
        r"\textstyle\sum_e A_e = K\,T", *FLOOR,
        "the tokens of one optimizer step; 2000 draws, good to about 1 %",
        f"{EVENLOAD}: simulated; with a target its shares replace 1/E. Real runs are above it, "
        "because tokens of a sequence are correlated", lambda loads: loads.max_vio_floor,
        of=("step", "run"), head="Batch floor"),
    Metric("max_vio_ratio", "MaxVio over its floor", "1 is as even as chance allows",
        r"\frac{\mathrm{MaxVio}}{\mathrm{floor}}", "ratio", ".1f", "lower", STEADY, EVENLOAD,
        max_vio_ratio, of=("run",)),
    Metric("avg_max_vio", "Mean MaxVio", "MaxVio, mean over all steps",
        r"\frac{1}{S}\sum_s \mathrm{MaxVio}_s", *EXCESS_3, RUN, NAMED,
        lambda loads: float(loads.max_vio_S.mean()), of=("run",), floor="max_vio_floor"),
    Metric("sup_max_vio", "Worst MaxVio", "MaxVio of the worst step, mean over layers",
        r"\max_s \mathrm{MaxVio}_s", *EXCESS_3, RUN, NAMED,
        lambda loads: float(loads.max_vio_S.max()), of=("run",)),
    Metric("max_vio_worst", "MaxVio of the worst layer", "MaxVio of the layer where it is largest",
        r"\max_\ell \mathrm{MaxVio}_\ell", *EXCESS_3, STEP, WANG, worst_layer(max_vio),
        of=("step",)),
    Metric("max_vio_micro", "MaxVio of a micro-batch",
        "MaxVio within one micro-batch, which is less even than the step", VIO, *EXCESS_3,
        "each micro-batch of a step; mean over them and the layers", WANG, of=("step",)),
    Metric("min_vio", "MinVio",
        "load of the emptiest expert over its fair share, minus 1; 0 is even, -1 is idle",
        r"\frac{\min_e A_e}{L} - 1", "× fair share", ".3f", "higher", STEP, EVENLOAD,
        steady(min_vio), of=("step",)),
    Metric("avg_vio", "Mean violation",
        "distance of an expert's load from its fair share, mean over the experts",
        r"\frac{1}{E}\sum_e |r_e - 1|", *EXCESS_3, STEP, EVENLOAD, steady(avg_vio), of=("step",)),
    Metric("load_cv", "Coefficient of variation", "standard deviation of the load over its mean",
        r"\frac{\mathrm{std}_e\,A_e}{\mathrm{mean}_e\,A_e}", "ratio", ".3f", "lower", STEADY,
        "Shazeer et al. 2017, arXiv:1701.06538; population standard deviation", steady(load_cv),
        of=("step", "run")),
    Metric("diversity", "Diversity",
        "share of the experts that an even load of the same entropy would use",
        r"\frac{1}{E}\exp\Big(-\sum_e \tfrac{A_e}{K\,T} \ln \tfrac{A_e}{K\,T}\Big)",
        "%", ".1%", "higher", STEP, EVENLOAD, steady(lambda count_E, _: diversity(count_E)),
        of=("step",)),
    Metric("difference", "Difference of loads",
        "load of one run minus that of another, each over its own fair share",
        r"r^{\mathrm{run}}_q - r^{\mathrm{reference}}_q",
        "percentage points of the fair share", ",.4g", None,
        "the last recorded steps of each run, summed",
        f"{EVENLOAD}. Experts have no identity across runs, so both are sorted, busiest "
        "first, and read at the same quantile q of the experts, the same depth of the layers"),
    # Experts without tokens.
    Metric("idle_frac", "Idle experts", "share of experts without a token in one optimizer step",
        r"\frac{1}{E}\,\#\{e : A_e = 0\}", *LOST, STEADY, EVENLOAD,
        steady(lambda count_E, _: idle_frac(count_E)), of=("step", "run"), floor="idle_expected",
        head="Idle", scale=Scale(0.0, 0.05)),
    Metric("idle_frac_worst", "Idle experts of the worst layer",
        "share of experts without a token in the layer that has most of them",
        r"\max_\ell \frac{1}{E}\,\#\{e : A_{\ell,e} = 0\}", *LOST, STEP, EVENLOAD,
        worst_layer(lambda count_E, _: idle_frac(count_E)), of=("step",)),
    Metric("idle_expected", "Idle by chance",
        "share of experts that random routing leaves without a token",
        r"\Big(1 - \frac{K}{E}\Big)^{T}", "%", ".1%", None, STEP,
        "elementary: a token misses an expert with probability 1 − K/E; with a target its "
        "shares replace 1/E", lambda loads: loads.idle_expected, of=("run",)),
    Metric("idle_streak", "Idle streak", "optimizer steps in a row without a token",
        r"\max\{n : A_{e,s} = A_{e,s-1} = \dots = A_{e,s-n+1} = 0\}", "steps", ",.4g", "lower",
        "largest value in each bin of time", EVENLOAD),
    Metric("idle_streak_max", "Longest idle streak",
        "longest run of optimizer steps in which one expert got no token",
        r"\max_{e,s}\ \mathrm{streak}_{e,s}", "steps", ",.0f", "lower", RUN, EVENLOAD,
        lambda loads: float(idle_streak_max(loads.count_SLE)), of=("run",)),
    Metric("dead_zero", "Dead experts, none", "share of experts without a token in the dead window",
        r"\frac{1}{E}\,\#\Big\{e : \sum_{s \in W} A_{e,s} = 0\Big\}", *LOST,
        "the last 100 steps summed", "as NeMo Automodel's dead_expert_frac",
        lambda loads: float(idle_frac(loads.recent_LE).mean()), of=("run",)),
    Metric("dead_tenth", "Dead experts",
        "share of experts below a tenth of their fair share over the last 100 steps",
        r"\frac{1}{E}\,\#\Big\{e : \sum_{s \in W} A_{e,s} < \tfrac{1}{10}\,|W|\,L\Big\}", *LOST,
        "the last 100 steps summed", "threshold as in github.com/oberpierre/moe-congestion-routing",
        lambda loads: float(dead_tenth(loads.recent_LE, loads.target_E).mean()), of=("run",),
        head="Dead"),
    Metric("dead_window", "Dead window",
        "number of last steps over which experts count as dead", r"|W| = \min(100, S)", *STEPS,
        RUN, EVENLOAD, lambda loads: float(loads.dead_window), of=("run",)),
    Metric("effective_util", "Busy share",
        "share of a step that experts work when all wait for the fullest one",
        r"\frac{\mathrm{mean}_e\,A_e}{\max_e A_e} = \frac{1}{1 + \mathrm{MaxVio}}",
        "%", ".0%", "higher", STEADY, EVENLOAD, steady(effective_util), of=("step", "run"),
        head="Busy", scale=Scale(1.0, 0.5)),
    Metric("count_check", "Count check", "every layer of every step assigned tokens × top-k",
        r"\sum_e A_e = K\,T", "1 or 0", ".0f", "higher", "every step of the run", EVENLOAD,
        count_check, of=("step", "run")),
    # Biases of the balancing rules.
    Metric("bias", "Selection bias",
        "added to an expert's score for the selection, never to the weight of its output",
        r"S_i = \mathrm{top}\text{-}K_e\,(\gamma_{ie} + b_e)", *BIAS, BIN, WANG),
    Metric("bias_spread", "Bias spread", "largest minus smallest bias of a layer",
        r"\max_e b_e - \min_e b_e", *BIAS, BIN, EVENLOAD, of=("step",)),
    Metric("bias_absmax", "Largest bias", "largest bias of a layer by its absolute value",
        r"\max_e |b_e|", *BIAS, STEP, EVENLOAD, of=("step",)),
    Metric("bias_mean", "Mean bias", "mean of all biases; 0 if the rule keeps them centred",
        r"\frac{1}{E}\sum_e b_e", *BIAS, STEP, EVENLOAD, of=("step",)),
    Metric("bias_step", "Bias step", "how far a bias moved in one step, on average",
        r"\frac{1}{E}\sum_e |b_{e,s} - b_{e,s-1}|", *BIAS, STEP, EVENLOAD, of=("step",)),
    Metric("bias_drift", "Bias drift", "how far the biases of a layer moved in a step, on average",
        r"\frac{1}{n\,E}\sum_e |b_{e,s} - b_{e,s-n}|", "score units per step", ",.4g", None,
        "between the last steps of neighbouring bins of time, n steps apart", EVENLOAD),
    # Theory of the dual problem.
    Metric("dual_gap", "Descent of the dual",
        "dual of the assignment problem at the rule's biases, above its value at the best "
        "fixed bias in hindsight; below 0 if scores move and the rule follows",
        r"\frac{D_n(b_n) - D_n(b^*)}{T}, \qquad "
        r"D(b) = \sum_i \mathrm{TopKSum}_i(s_i + b) - \sum_e L_e b_e",
        "score units per token", ",.4g", "lower",
        "a point's steps, mean; the first 256 tokens of every step", HAN),
    Metric("regret", "Regret",
        "what a rule's biases cost beyond the best fixed bias in hindsight, summed over "
        "the steps", r"R_N = \sum_{n \le N} \frac{D_n(b_n) - D_n(b^*)}{T}",
        "score units per token", ",.4g", "lower",
        "all steps so far; the law is fitted without the first tenth",
        "Hazan 2016, arXiv:1909.05207, chapter 3; Han & Zhong 2025, arXiv:2512.03915"),
    Metric("tie_spectrum", "Tie-density spectrum",
        "curvature of the dual: how many tokens a change of bias moves between experts; "
        "the smallest value μ is its strong convexity, 2 over the largest limits a gradient step",
        r"\mathrm{eig}\,\nabla^2 \frac{\mathbb{E}[D]}{T}, \qquad "
        r"w_{kl} = \text{density at 0 of the gap between } k \text{ and } l",
        "share of the tokens per unit of bias", ",.4g", None,
        "all steps of the simulation, at the best fixed bias", HAN),
    # What imbalance costs.
    Metric("waiting", "Step time lost by waiting",
        "share of a synchronous expert-parallel step in which ranks wait for the fullest "
        "one; a lower bound, communication left out",
        r"\frac{f\,(\bar s - 1)}{1 + f\,(\bar s - 1)}, \qquad s = "
        r"\frac{\max_r \sum_{e \in r} A_e}{\mathrm{mean}_r \sum_{e \in r} A_e}",
        "% of the step", ".1%", "lower",
        "last quarter of the run, mean over steps and layers; f is the experts' share of "
        "the FLOPs", EVENLOAD),
    # What experts do.
    Metric("domain_load", "Load by domain",
        "load of an expert on one domain of text, over its fair share of that domain",
        r"r_{g,e} = \frac{A_{g,e}}{L_g}, \qquad L_g = \frac{K\,T_g}{E}", *LOAD,
        "held-out tokens of the domain, about as many of each",
        "after the domain specialisation of OLMoE, arXiv:2409.02060"),
    Metric("specialisation", "Specialisation",
        "how far an expert's load depends on the domain: 0 not at all, 1 each its own experts",
        r"\frac{\mathrm{JSD}\big(P(e \mid g_1), \dots, P(e \mid g_G)\big)}{\ln G}",
        "0 to 1", ".3f", None, EVALUATION, "Jensen-Shannon divergence, Lin 1991, eq. 5.1",
        of=("evaluation",)),
    Metric("coactivation", "Co-activation",
        "tokens that go to both experts, over what independent choices of these loads "
        "would give", r"\frac{\#\{i : e, e' \in S_i\}\;T}{A_e\,A_{e'}}", "× chance", ",.4g", None,
        EVALUATION, "co-activation as in OLMoE, arXiv:2409.02060, here as a lift"),
    Metric("transition", "Onward routing",
        "tokens that go from an expert to one of the next layer, over what chance would give",
        r"\frac{N_{e \to e'}\;\sum N}{\sum_{e'} N_{e \to e'}\;\sum_{e} N_{e \to e'}}",
        "× chance", ",.4g", None, EVALUATION, EVENLOAD),
    Metric("loss_by_k", "Loss by experts per token",
        "held-out loss with k experts per token in place of the K of training; biases unchanged",
        r"\mathrm{loss}(k), \quad k = 1 \dots E", "nats per token", ",.4g", "lower",
        "a part of the evaluation set, the same tokens for every k", EVENLOAD),
    # The training itself and its cost.
    Metric("train_loss", "Training loss", "language-model loss without what balancing adds",
        r"-\frac{1}{T}\sum_i \ln p(x_i \mid x_{<i})", *NATS,
        "curves: mean and largest step of each bin; as a figure: last tenth of the steps", EVENLOAD,
        of=("run",)),
    Metric("loss", "Training loss of a step",
        "language-model loss of one step, without what balancing adds",
        r"-\frac{1}{T}\sum_i \ln p(x_i \mid x_{<i})", *NATS, STEP, EVENLOAD, of=("step",)),
    Metric("balance_loss", "Balancing loss", "what the balancing rule adds to the training loss",
        r"\mathrm{loss}_{\mathrm{rule}}", "nats per token", ",.4g", None, STEP, EVENLOAD,
        of=("step",)),
    Metric("grad_norm", "Gradient norm", "2-norm of all gradients before clipping",
        r"\lVert g \rVert_2", "loss units", ",.4g", None, "largest step of each bin of time",
        "Pascanu et al. 2013, arXiv:1211.5063", of=("step",)),
    Metric("learning_rate", "Learning rate", "set by the schedule", r"\eta_s", "1", ",.4g", None,
        BIN, EVENLOAD, of=("step",)),
    Metric("tokens_per_second", "Throughput",
        "tokens trained per second of training, checkpoints left out",
        r"\frac{\#\,\mathrm{tokens}}{\#\,\mathrm{seconds}}", "tokens/s", ",.0f", "higher",
        "each bin of time; as a figure: the whole run", EVENLOAD, of=("step", "run"),
        head="Tokens per s"),
    Metric("tokens", "Tokens", "tokens trained", r"S\,T", *TOKENS, RUN, EVENLOAD,
        of=("step", "run")),
    Metric("eval_tokens", "Evaluation tokens", "tokens of the evaluation", r"T", *TOKENS,
        EVALUATION, EVENLOAD, of=("evaluation",)),
    Metric("steps", "Steps", "optimizer steps", r"S", *STEPS, RUN, EVENLOAD, of=("run",)),
    Metric("train_seconds", "Training time", "seconds of training, checkpoints left out",
        r"\sum_s t_s", "s", ",.1f", "lower", RUN, EVENLOAD, of=("run",)),
    Metric("joules_per_step", "Energy of a step",
        "energy that the first worker's GPU drew per optimizer step, by its own counter",
        r"\frac{\mathrm{joules}}{S}", "J", ",.1f", "lower", "the last attempt",
        "NVML, nvmlDeviceGetTotalEnergyConsumption", of=("run",)),
    Metric("tracking_errors", "Tracking errors",
        "writes to disk or mirror that failed at first", r"\#\,\mathrm{failures}",
        "deliveries", ",.0f", "lower", RUN, EVENLOAD, of=("run",)),
    Metric("system", "System metrics",
        "processor, memory and accelerator of the worker while it trained", r"\mathrm{sampled}",
        "%, GiB, W", ",.4g", None, "samples of the trial's worker", EVENLOAD),
)
# fmt: on
METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}


def figures(moment: Moment, loads: Loads) -> dict[str, float]:
    """The metrics of a step, a run or an evaluation that are computed from loads."""
    return {
        metric.name: metric.compute(loads)
        for metric in METRICS.values()
        if metric.compute is not None and moment in metric.of
    }


def of_trials() -> list[Metric]:
    """The metrics that a completed trial has."""
    return [metric for metric in METRICS.values() if {"run", "evaluation"} & {*metric.of}]


def columns() -> list[Metric]:
    """The metrics that tables of trials and settings show, in their order."""
    return [metric for metric in METRICS.values() if metric.head]


def legend(shown: Sequence[Metric]) -> str:
    return " ".join(f"{metric.head}: {metric.meaning}." for metric in shown)


def in_grids() -> list[Metric]:
    """The metrics that grids of settings by expert count show."""
    return [metric for metric in METRICS.values() if metric.scale is not None]
