"""The rule of every operator that is followed, by the operator's name."""

from __future__ import annotations

from esper.anatomy.labels.rules import (
    contraction,
    einsum,
    fourier,
    movement,
    pointwise,
    recurrent,
    reduction,
    routing,
    writing,
)
from esper.anatomy.labels.rules.call import Call, Result, Rule, operators

_LOSSES = operators(
    """binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss
    _ctc_loss ctc_loss hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss
    multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward nll_loss nll_loss2d
    nll_loss2d_forward nll_loss_forward nll_loss_nd poisson_nll_loss smooth_l1_loss soft_margin_loss
    triplet_margin_loss"""
)


def _compared(call: Call) -> Result:
    """Every width that a loss reads has a counterpart in the target, and stays."""
    return call.frozen(f"is compared with the target by {call.where}")


RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **movement.RULES,
    **reduction.RULES,
    **fourier.RULES,
    **dict.fromkeys(_LOSSES, _compared),
    **contraction.RULES,
    **einsum.RULES,
    **recurrent.RULES,
    **writing.RULES,
    **routing.RULES,
}
