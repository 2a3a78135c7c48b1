"""What every figure means: its formula, the window it is taken over, and where it comes from.

A literal table, so that a page, a chart and a test read the same words. A new metric is a line.
Letters as in `pipeline.figures.loads`: A assignments of an expert, L its fair share, r = A / L,
E experts, K top-k, T tokens of an optimizer step.
"""

from __future__ import annotations

from typing import NamedTuple

STEADY = "optimizer step; mean over layers and the last quarter of the steps"
STEP = "one optimizer step"
EVALUATION = "the whole evaluation set, biases frozen"
RUN = "the whole run"
WANG = "Wang et al. 2024, arXiv:2408.15664"
EVENLOAD = "evenload"


class Entry(NamedTuple):
    """One metric. `formula` is LaTeX, `meaning` a phrase that fits into a tooltip."""

    title: str
    meaning: str
    formula: str
    unit: str
    window: str
    source: str


GLOSSARY: dict[str, Entry] = {
    # How even the load is.
    "utilisation": Entry(
        "Load over fair share",
        "assignments of an expert over what an even split would give it; 1 is fair",
        r"r_e = \frac{A_e}{L}, \qquad L = \frac{K\,T}{E}",
        "× fair share",
        "as the page states: a step, several steps summed, or the evaluation set",
        f"{EVENLOAD}; counts are summed before the ratio is formed",
    ),
    "max_vio": Entry(
        "MaxVio",
        "load of the fullest expert over its fair share, minus 1; 0 is even",
        r"\mathrm{MaxVio} = \frac{\max_e A_e}{L} - 1",
        "× fair share",
        STEADY,
        f"{WANG}, eq. 4",
    ),
    "max_vio_floor": Entry(
        "Sampling floor",
        "MaxVio that a perfectly fair random router shows by chance at this T, E and K",
        r"\frac{1}{L}\,\mathbb{E}\Big[\max_e A_e\Big] - 1, \qquad "
        r"A_e \sim \mathrm{Binomial}\big(T, \tfrac{K}{E}\big),\ \textstyle\sum_e A_e = K\,T",
        "× fair share",
        "the tokens of one optimizer step; 2000 draws, good to about 1 %",
        f"{EVENLOAD}: simulated. Tokens of one sequence are correlated, real runs sit above it",
    ),
    "max_vio_ratio": Entry(
        "MaxVio over its floor",
        "1 is as even as chance allows",
        r"\frac{\mathrm{MaxVio}}{\mathrm{floor}}",
        "ratio",
        STEADY,
        EVENLOAD,
    ),
    "avg_max_vio": Entry(
        "Mean MaxVio",
        "MaxVio, mean over all steps",
        r"\frac{1}{S}\sum_s \mathrm{MaxVio}_s",
        "× fair share",
        RUN,
        "named as in arXiv:2502.15451",
    ),
    "sup_max_vio": Entry(
        "Worst MaxVio",
        "MaxVio of the worst step, mean over layers",
        r"\max_s \mathrm{MaxVio}_s",
        "× fair share",
        RUN,
        "named as in arXiv:2502.15451",
    ),
    "max_vio_global": Entry(
        "MaxVio, global",
        "MaxVio of the loads summed over the evaluation set",
        r"\frac{\max_e A_e}{L} - 1",
        "× fair share",
        EVALUATION,
        WANG,
    ),
    "max_vio_global_floor": Entry(
        "Global sampling floor",
        "global MaxVio by chance alone, over as many tokens",
        r"\frac{1}{L}\,\mathbb{E}\Big[\max_e A_e\Big] - 1",
        "× fair share",
        EVALUATION,
        EVENLOAD,
    ),
    "load_cv": Entry(
        "Coefficient of variation",
        "standard deviation of the load over its mean",
        r"\frac{\mathrm{std}_e\,A_e}{\mathrm{mean}_e\,A_e}",
        "ratio",
        STEADY,
        "Shazeer et al. 2017, arXiv:1701.06538; population standard deviation",
    ),
    "effective_util": Entry(
        "Utilisation",
        "busy share of a step in which every expert waits for the fullest one",
        r"\frac{\mathrm{mean}_e\,A_e}{\max_e A_e} = \frac{1}{1 + \mathrm{MaxVio}}",
        "%",
        STEADY,
        EVENLOAD,
    ),
    "difference": Entry(
        "Difference of loads",
        "load of one run minus that of another, each over its own fair share",
        r"r^{\mathrm{run}}_q - r^{\mathrm{reference}}_q",
        "percentage points of the fair share",
        "the last recorded steps of each run, summed",
        f"{EVENLOAD}. Experts have no identity across runs, so both are sorted, busiest first, "
        "and read at the same quantile q of the experts, the same depth of the layers",
    ),
    # Who gets nothing.
    "idle_frac": Entry(
        "Idle experts",
        "share of experts without a token in one optimizer step",
        r"\frac{1}{E}\,\#\{e : A_e = 0\}",
        "%",
        STEADY,
        EVENLOAD,
    ),
    "idle_expected": Entry(
        "Idle by chance",
        "share of experts that uniform random routing leaves without a token",
        r"\Big(1 - \frac{K}{E}\Big)^{T}",
        "%",
        STEP,
        "elementary: a token misses an expert with probability 1 − K/E",
    ),
    "idle_streak": Entry(
        "Idle streak",
        "optimizer steps in a row without a token",
        r"\max\{n : A_{e,s} = A_{e,s-1} = \dots = A_{e,s-n+1} = 0\}",
        "steps",
        "largest value in each bin of time",
        EVENLOAD,
    ),
    "idle_streak_max": Entry(
        "Longest idle streak",
        "longest run of optimizer steps in which one expert got no token",
        r"\max_{e,s}\ \mathrm{streak}_{e,s}",
        "steps",
        RUN,
        EVENLOAD,
    ),
    "dead_zero": Entry(
        "Dead experts, none",
        "share of experts without a token in the dead window",
        r"\frac{1}{E}\,\#\Big\{e : \sum_{s \in W} A_{e,s} = 0\Big\}",
        "%",
        "the last 100 steps summed",
        "as NeMo Automodel's dead_expert_frac",
    ),
    "dead_tenth": Entry(
        "Dead experts",
        "share of experts below a tenth of their fair share in the dead window",
        r"\frac{1}{E}\,\#\Big\{e : \sum_{s \in W} A_{e,s} < \tfrac{1}{10}\,|W|\,L\Big\}",
        "%",
        "the last 100 steps summed",
        "threshold as in github.com/oberpierre/moe-congestion-routing",
    ),
    "dead_window": Entry(
        "Dead window",
        "steps that the dead experts are judged over, the last ones",
        r"|W| = \min(100, S)",
        "steps",
        RUN,
        EVENLOAD,
    ),
    "count_check": Entry(
        "Count check",
        "every layer of every step assigned tokens × top-k",
        r"\sum_e A_e = K\,T",
        "yes or no",
        "every step of the run",
        EVENLOAD,
    ),
    # The bias that balances.
    "bias": Entry(
        "Selection bias",
        "added to an expert's score for the selection, never to the weight of its output",
        r"S_i = \mathrm{top}\text{-}K_e\,(\gamma_{ie} + b_e)",
        "score units",
        "the last step of each bin of time",
        WANG,
    ),
    "bias_spread": Entry(
        "Bias spread",
        "largest minus smallest bias of a layer",
        r"\max_e b_e - \min_e b_e",
        "score units",
        "the last step of each bin of time",
        EVENLOAD,
    ),
    "bias_drift": Entry(
        "Bias drift",
        "how far the biases of a layer moved in a step, on average",
        r"\frac{1}{n\,E}\sum_e |b_{e,s} - b_{e,s-n}|",
        "score units a step",
        "between the last steps of neighbouring bins of time, n steps apart",
        EVENLOAD,
    ),
    # What the theory of the dual says.
    "dual_gap": Entry(
        "Descent of the dual",
        "dual of the assignment problem at the rule's biases, above its value at the best fixed "
        "bias in hindsight; below 0 where scores move and the rule follows",
        r"\frac{D_n(b_n) - D_n(b^*)}{T}, \qquad "
        r"D(b) = \sum_i \mathrm{TopKSum}_i(s_i + b) - \sum_e L_e b_e",
        "score units per token",
        "a point's steps, mean; the first 256 tokens of every step",
        "Han & Zhong 2025, arXiv:2512.03915",
    ),
    "regret": Entry(
        "Regret",
        "what a rule's biases cost beyond the best fixed bias in hindsight, summed over the steps",
        r"R_N = \sum_{n \le N} \frac{D_n(b_n) - D_n(b^*)}{T}",
        "score units per token",
        "all steps so far; the law is fitted without the first tenth",
        "Hazan 2016, arXiv:1909.05207, chapter 3; Han & Zhong 2025, arXiv:2512.03915",
    ),
    "tie_spectrum": Entry(
        "Tie-density spectrum",
        "curvature of the dual: how many tokens a change of bias moves between experts; the "
        "smallest value μ is its strong convexity, 2 over the largest limits a gradient step",
        r"\mathrm{eig}\,\nabla^2 \frac{\mathbb{E}[D]}{T}, \qquad "
        r"w_{kl} = \text{density at 0 of the gap between } k \text{ and } l",
        "share of the tokens per unit of bias",
        "all steps of the simulation, at the best fixed bias",
        "Han & Zhong 2025, arXiv:2512.03915",
    ),
    # What imbalance costs.
    "waiting": Entry(
        "Step time that waits",
        "share of a synchronous expert-parallel step in which ranks wait for the fullest one; a "
        "lower bound, communication left out",
        r"\frac{f\,(\bar s - 1)}{1 + f\,(\bar s - 1)}, \qquad s = "
        r"\frac{\max_r \sum_{e \in r} A_e}{\mathrm{mean}_r \sum_{e \in r} A_e}",
        "% of the step",
        "last quarter of the run, mean over steps and layers; f is the experts' share of the FLOPs",
        EVENLOAD,
    ),
    # What a sweep says of its parameters.
    "importance": Entry(
        "Importance of a parameter",
        "share of a figure's variance over the trials that a parameter's levels explain; the rest "
        "is interactions and the luck of the seed",
        r"\varepsilon^2 = 1 - \frac{SS_{\mathrm{within}} / (n - g)}{SS_{\mathrm{total}} / (n - 1)}",
        "%",
        "all trials of the sweep that have the figure; numbers of many levels by their quarters",
        "Kelley 1935 (epsilon squared); main effects as in Hutter et al. 2014, functional ANOVA",
    ),
    # What experts do.
    "domain_load": Entry(
        "Load by domain",
        "load of an expert on one domain of text, over its fair share of that domain",
        r"r_{g,e} = \frac{A_{g,e}}{L_g}, \qquad L_g = \frac{K\,T_g}{E}",
        "× fair share",
        "held-out tokens of the domain, about as many of each",
        "after the domain specialisation of OLMoE, arXiv:2409.02060",
    ),
    "specialisation": Entry(
        "Specialisation",
        "how far an expert's load depends on the domain: 0 not at all, 1 each its own experts",
        r"\frac{\mathrm{JSD}\big(P(e \mid g_1), \dots, P(e \mid g_G)\big)}{\ln G}",
        "0 to 1",
        EVALUATION,
        "Jensen-Shannon divergence, Lin 1991, eq. 5.1",
    ),
    "coactivation": Entry(
        "Co-activation",
        "tokens that go to both experts, over what independent choices of these loads would give",
        r"\frac{\#\{i : e, e' \in S_i\}\;T}{A_e\,A_{e'}}",
        "× chance",
        EVALUATION,
        "co-activation as in OLMoE, arXiv:2409.02060, here as a lift",
    ),
    "transition": Entry(
        "Onward routing",
        "tokens that go from an expert to one of the next layer, over what chance would give",
        r"\frac{N_{e \to e'}\;\sum N}{\sum_{e'} N_{e \to e'}\;\sum_{e} N_{e \to e'}}",
        "× chance",
        EVALUATION,
        EVENLOAD,
    ),
    "loss_by_k": Entry(
        "Loss by experts a token",
        "held-out loss with k experts a token in place of the K of training; biases unchanged",
        r"\mathrm{loss}(k), \quad k = 1 \dots E",
        "nats per token",
        "a part of the evaluation set, the same tokens for every k",
        EVENLOAD,
    ),
    # What it costs and gives.
    "val_bits_per_byte": Entry(
        "Validation loss",
        "held-out loss per byte of text; comparable across tokenisers",
        r"\frac{1}{\ln 2}\,\frac{\sum \mathrm{loss}}{\#\,\mathrm{bytes}}",
        "bits per byte",
        EVALUATION,
        "Gao et al. 2020, arXiv:2101.00027",
    ),
    "val_loss": Entry(
        "Validation loss, per token",
        "held-out loss",
        r"-\frac{1}{T}\sum_i \ln p(x_i \mid x_{<i})",
        "nats per token",
        EVALUATION,
        EVENLOAD,
    ),
    "val_perplexity": Entry(
        "Perplexity",
        "exp of the held-out loss",
        r"\exp(\mathrm{loss})",
        "per token",
        EVALUATION,
        EVENLOAD,
    ),
    "train_loss": Entry(
        "Training loss",
        "language-model loss without what balancing adds",
        r"-\frac{1}{T}\sum_i \ln p(x_i \mid x_{<i})",
        "nats per token",
        "curves: mean and largest step of each bin; as a figure: last tenth of the steps",
        EVENLOAD,
    ),
    "grad_norm": Entry(
        "Gradient norm",
        "2-norm of all gradients before clipping",
        r"\lVert g \rVert_2",
        "loss units",
        "largest step of each bin of time",
        "Pascanu et al. 2013, arXiv:1211.5063",
    ),
    "learning_rate": Entry(
        "Learning rate",
        "as the schedule set it",
        r"\eta_s",
        "1",
        "last step of each bin of time",
        EVENLOAD,
    ),
    "tokens_per_second": Entry(
        "Throughput",
        "tokens trained per second of training, checkpoints left out",
        r"\frac{\#\,\mathrm{tokens}}{\#\,\mathrm{seconds}}",
        "tokens/s",
        "each bin of time; as a figure: the whole run",
        EVENLOAD,
    ),
    "tokens": Entry("Tokens", "tokens trained", r"S\,T", "tokens", RUN, EVENLOAD),
    "eval_tokens": Entry(
        "Evaluation tokens", "tokens of the evaluation", r"T", "tokens", EVALUATION, EVENLOAD
    ),
    "steps": Entry("Steps", "optimizer steps", r"S", "steps", RUN, EVENLOAD),
    "train_seconds": Entry(
        "Training time",
        "seconds of training, checkpoints left out",
        r"\sum_s t_s",
        "s",
        RUN,
        EVENLOAD,
    ),
    "tracking_errors": Entry(
        "Tracking errors",
        "deliveries to MLflow or disk that failed at first",
        r"\#\,\mathrm{failures}",
        "deliveries",
        RUN,
        EVENLOAD,
    ),
    "system": Entry(
        "System metrics",
        "processor, memory and accelerator of the worker while it trained",
        r"\mathrm{sampled}",
        "%, GiB, W",
        "samples of the trial's worker",
        EVENLOAD,
    ),
}


def meaning(name: str) -> str:
    """The phrase for a tooltip; empty for a figure that the table does not hold."""
    return GLOSSARY[name].meaning if name in GLOSSARY else ""
