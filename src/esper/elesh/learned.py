"""What a network has learned from its inputs so far: what the loss owes to each input's own target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from esper.batches import samples, with_targets_of
from esper.elesh.case import Case, open_case, read_data
from esper.urabrask import joined

_EXACT = 1e-6
"""Relative differences of losses that are no more than rounding."""
_VARIED = 1e-3
"""Relative spread over samples from which on outputs are not all the same."""


@dataclass(frozen=True)
class Learned:
    """How much of the loss rests on which target belongs to which input.

    Attributes:
        loss: mean of the held-out samples.
        rise: by how much it would rise if every input got the target of another.
    """

    loss: float
    rise: float

    def is_less_than(self, share: float) -> bool:
        """Whether that is less than such a share of the loss."""
        return self.rise < share * abs(self.loss)


def learned(case: Case) -> Learned | None:
    """Compares the loss of held-out samples with that of the same samples after their targets changed places.

    On a plateau on which a network answers everything alike, as at chance level or with a collapsed code, any
    unit can go without cost, and which ones go is drawn by lot: there is nothing to rank yet.

    Returns:
        None where that tells nothing: without targets, where samples meet in the loss, where targets play no
        part in it, or where it does not ask which belongs to which.
    """
    opened, (_, held_out) = open_case(case), read_data(case.data)
    twin = opened.twin
    if twin.is_coupled:
        return None
    batches = joined(twin, held_out.calibration)
    state = opened.masked_state(opened.keep)
    state = twin.recalibrated(state, batches, still=case.still)
    # [pairs]: losses with own and with other targets, and how many samples each is the mean of.
    own, other, counts, spread = [], [], [], []
    with torch.no_grad():
        for batch, changed in _pairs(batches):
            mean, output = twin.loss(state, batch)
            own.append(float(mean))
            other.append(float(twin.loss(state, changed)[0]))
            counts.append(samples(batch))
            spread.append(_spread(output))
    rises = np.subtract(other, own)
    if not rises.size or not np.isfinite(rises).all():
        return None
    loss, rise = float(np.average(own, weights=counts)), float(np.average(rises, weights=counts))
    # Where targets play no part, or only one beside the outputs, as in the loss of a critic, any order is the
    # same to it. It is to any loss where all outputs are alike, and then there is nothing to rank.
    if abs(rise) <= _EXACT * np.abs(own).mean() and max(spread) > _VARIED:
        return None
    return Learned(loss, rise)


def _pairs(batches: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Each batch as it is, and with other targets: of a batch that is far from it, where data are sorted."""
    for number, batch in enumerate(batches):
        far = batches[(number + len(batches) // 2) % len(batches)]
        changed = with_targets_of(batch, far)
        if changed is not None:
            yield batch, changed


def _spread(output: Tensor) -> float:
    """How far outputs differ from sample to sample, relative to their size."""
    if output.dim() == 0 or len(output) < 2 or not output.is_floating_point():
        return 0.0
    size = float(output.square().mean().sqrt())
    return float(output.std(0).mean()) / size if size > 0 else 0.0
