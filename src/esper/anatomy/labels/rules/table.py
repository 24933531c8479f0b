"""The rule of every operator that is followed, by the operator's name."""

from __future__ import annotations

from esper.anatomy.labels.rules import (
    contraction,
    einsum,
    fourier,
    losses,
    movement,
    pointwise,
    recurrent,
    reduction,
    routing,
    writing,
)
from esper.anatomy.labels.rules.call import Rule

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **movement.RULES,
    **reduction.RULES,
    **fourier.RULES,
    **losses.RULES,
    **contraction.RULES,
    **einsum.RULES,
    **recurrent.RULES,
    **writing.RULES,
    **routing.RULES,
}
