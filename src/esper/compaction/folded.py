"""Cutting at once what is there twice: units folded into their twin, and the network that came out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import Form, Snapshot
from esper.anatomy.graph import bare
from esper.anatomy.mend import fold
from esper.anatomy.proof import Inputs
from esper.arrays import BoolArray
from esper.compaction.compacted import Compacted, outcome
from esper.compaction.configuration import describe
from esper.errors import SurgeryError


def folded(
    model: nn.Module,
    anatomy: Anatomy,
    inputs: Inputs,
    optimizers: tuple[Optimizer, ...],
    *,
    allowed: BoolArray,
    refused: Mapping[str, str],
) -> Compacted:
    """Folds, in place, every unit that can be into its twin; outputs stay what they were.

    Args:
        model: the network.
        anatomy: its anatomy.
        inputs: inputs to prove equality on.
        optimizers: whose state shall follow.
        allowed: groups that the network's code lets be cut, bool [groups].
        refused: the others, and why.

    Raises:
        SurgeryError: a fold that was proven group by group fails as a whole; nothing changed.
    """
    network = bare(model)
    before = Snapshot.of(network)
    result = fold(model, anatomy, inputs, optimizers, allowed=allowed)
    keep = result.keep
    error = result.equivalence.float64_error or 0.0
    notes = [f"{int((~keep).sum())} units were there twice; outputs differ by {error:.1g} in float64."]
    form: Form | None = None
    try:
        form = Form.between(before, network, [result.kept])
    except SurgeryError as error:
        notes.append(str(error))
    description = describe(network, anatomy, keep, inputs) if not np.all(keep) else None
    return outcome(
        model, result, inputs, notes=tuple(notes), refused=refused, form=form, description=description
    )
