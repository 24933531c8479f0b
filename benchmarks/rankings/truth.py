"""The truth: what removing every unit alone does to the loss and to the output, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from esper.anatomy import Anatomy
from esper.anatomy.twin import Twin
from esper.arrays import FloatArray

_AT_ONCE = 32


@dataclass(frozen=True, eq=False)
class Truth:
    """Arrays of shape [units, batches]; NaN for a unit that is read nowhere.

    Attributes:
        rise: of the mean loss.
        change: mean squared change of the output.
        seconds: what measuring took.
    """

    rise: FloatArray
    change: FloatArray
    seconds: float

    def halves(self, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means over even and odd batches."""
        return values[:, ::2].mean(1), values[:, 1::2].mean(1)


def ablated(twin: Twin, anatomy: Anatomy, state: Mapping[str, Tensor], batches: Sequence[Any]) -> Truth:
    """Every unit's gates set to zero, one unit at a time."""
    start = time.perf_counter()
    found = np.full((2, anatomy.num_units, len(batches)), np.nan)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        for number, batch in enumerate(batches):
            found[:, :, number] = _one_batch(twin, anatomy, state, batch)
    return Truth(found[0], found[1], time.perf_counter() - start)


def _one_batch(twin: Twin, anatomy: Anatomy, state: Mapping[str, Tensor], batch: Any) -> FloatArray:
    loss, output = twin.loss(state, batch)
    found = np.full((2, anatomy.num_units), np.nan)
    for group in range(len(anatomy.groups)):
        gates = twin.gates_of(anatomy, group)
        read = np.unique(np.concatenate([gate.units.ravel() for gate in gates] or [np.zeros(0, np.int64)]))
        span = anatomy.unit_slice(group)
        for units in torch.from_numpy(read[(read >= span.start) & (read < span.stop)]).split(_AT_ONCE):
            rows = torch.ones(len(units), anatomy.num_units + 1)
            rows[torch.arange(len(units)), units] = 0.0

            def one(row: Tensor, gates: Any = gates) -> tuple[Tensor, Tensor]:
                changed, given = twin.run(state, batch, twin.multipliers(gates, row))
                return changed.reshape(()) - loss, (given - output).square().mean()

            found[:, units.numpy()] = torch.stack(torch.vmap(one)(rows)).double().numpy()
    return found
