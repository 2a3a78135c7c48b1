"""The loss that pushes routers to balance: alpha * sum_k f_k P_k.

f_k = A_k / L_k carries no gradient. P_k is the mean over tokens of the score normalised over
experts. At the wanted load the value is alpha for any E, K, T and number of micro-batches.
Source: Fedus et al. 2021, arXiv:2101.03961, eq. (4); DeepSeek-AI 2024, arXiv:2412.19437, eq. (17)
(sequence); Qiu et al. 2025, arXiv:2501.11873 (global); Dai et al. 2024, arXiv:2401.06066, eq. (15)
(groups, there the devices of expert parallelism).

Letters: T tokens, E experts, K top-k, G groups, N parts of a micro-batch with a loss each.
"""

from collections.abc import Callable

from torch import Tensor

from evenload.workers.balancing.base import RoutedBatch


def balance_loss(
    coefficient: float, scope: str, groups: int | None, target: tuple[float, ...] | None
) -> Callable[[RoutedBatch], Tensor]:
    """The loss of one micro-batch in one layer.

    Args:
    scope:  "local" takes f and P over one micro-batch; "sequence" averages the losses of the single
            sequences; "global" takes f over the step so far on all ranks, P over the micro-batch
    groups: f and P are those of so many groups of neighbouring experts; None: of single experts
    """

    def loss(batch: RoutedBatch) -> Tensor:
        prob_TE = batch.score_TE / batch.score_TE.sum(dim=-1, keepdim=True)
        if scope == "sequence":
            prob_NE = prob_TE.unflatten(0, (batch.num_sequences, -1)).mean(dim=1)
            count_NE = _counts_by_sequence(batch)
        else:
            prob_NE = prob_TE.mean(dim=0, keepdim=True)
            count_NE = (batch.step_count_E if scope == "global" else batch.count_E)[None]
        share_NE = count_NE / count_NE.sum(dim=-1, keepdim=True)
        wanted_E = prob_NE.new_full(prob_NE.shape[-1:], 1 / prob_NE.shape[-1])
        if target is not None:
            wanted_E = prob_NE.new_tensor(target)
        if groups is not None:
            share_NE, wanted_E, prob_NE = (
                part.unflatten(-1, (groups, -1)).sum(dim=-1)
                for part in (share_NE, wanted_E, prob_NE)
            )
        return coefficient * (share_NE / wanted_E * prob_NE).sum(dim=-1).mean()

    return loss


def _counts_by_sequence(batch: RoutedBatch) -> Tensor:
    expert_NR = batch.expert_TK.reshape(batch.num_sequences, -1)
    count_NE = batch.score_TE.new_zeros(batch.num_sequences, batch.score_TE.shape[-1])
    return count_NE.scatter_add_(1, expert_NR, count_NE.new_ones(()).expand_as(expert_NR))
