"""Operators that compare what the network says with a target: no output can go, and the reason says so."""

from __future__ import annotations

from esper.anatomy.labels.rules.call import Call, Result, Rule, operators

LOSSES = operators(
    """binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy_loss
    _ctc_loss ctc_loss hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss
    multi_margin_loss multilabel_margin_loss multilabel_margin_loss_forward nll_loss nll_loss2d
    nll_loss2d_forward nll_loss_forward nll_loss_nd poisson_nll_loss smooth_l1_loss soft_margin_loss
    triplet_margin_loss"""
)


def compared(call: Call) -> Result:
    """Every width that a loss reads has a counterpart in the target, and stays."""
    return call.frozen(f"is compared with the target by {call.where}")


RULES: dict[str, Rule] = dict.fromkeys(LOSSES, compared)
