"""What the twin shows of every unit on held-out samples: how often it is active, and what the loss loses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from esper.anatomy import Anatomy, Gate
from esper.anatomy.twin import Twin
from esper.arrays import FloatArray

State = Mapping[str, Tensor]
_SAMPLES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class LossChanges:
    """How the loss of single samples depends on each unit: shape [units] each, NaN for what is read nowhere.

    Attributes:
        mean: Mean over samples of activation x gradient, summed over positions: the slope of the loss in
            a factor on the unit.
        size: Mean over samples of its absolute value.
        square: Mean over samples of its square.
        samples: How many there were; batches for a network that works with one batch size only.
    """

    mean: FloatArray
    size: FloatArray
    square: FloatArray
    samples: int

    def predicted(self, standard_errors: float = 2.0) -> FloatArray:
        """The rise of the loss without each unit, to second order: curvature minus slope.

        The mean square of the samples' slopes stands for the second derivative (empirical Fisher
        information). Half of it would be the second-order term; the whole ranks better, because removing a
        unit is no small step. The mean slope counts as far as it is known: shrunk to nothing where it lies
        within `standard_errors` of zero, which late in training it mostly does.
        """
        variance = np.maximum(self.square - np.square(self.mean), 0.0) / max(self.samples, 1)
        ratio = np.divide(
            variance, np.square(self.mean), out=np.full(self.mean.shape, np.inf), where=self.mean != 0
        )
        shrunk = self.mean * np.maximum(1.0 - standard_errors**2 * ratio, 0.0)
        rise: FloatArray = self.square - np.where(np.isfinite(self.mean), shrunk, np.nan)
        return rise


def loss_changes(twin: Twin, anatomy: Anatomy, state: State, batches: Sequence[Any]) -> LossChanges:
    """Measures the slope of every sample's loss in every unit: one backward pass for all units together."""
    sums = torch.zeros(3, anatomy.num_units, dtype=torch.float64)
    count = 0
    for batch in batches:
        for part in _parts(batch, twin.is_batch_dynamic):
            slopes = _slopes(twin, anatomy, state, part)[:, :-1].double().cpu()
            sums += torch.stack([slopes.sum(0), slopes.abs().sum(0), slopes.square().sum(0)])
            count += len(slopes)
    is_read = np.zeros(anatomy.num_units, np.bool_)
    for gate in anatomy.gates:
        is_read[gate.units[gate.units >= 0]] = True
    is_known = is_read & (count > 0)
    mean, size, square = np.where(is_known, sums.numpy() / max(count, 1), np.nan)
    return LossChanges(mean, size, square, count)


def activation_frequency(
    twin: Twin, anatomy: Anatomy, state: State, batches: Sequence[Any], threshold: float = 1e-3
) -> FloatArray:
    """Share of a unit's elements with |value| > `threshold`, over samples and positions, where it is read.

    Returns:
        Shape [units], 0 to 1; NaN for a unit that is read nowhere.

    Source: spec 003, "Multi-Level Importance Calculation".
    """
    active, seen = (torch.zeros(anatomy.num_units, dtype=torch.float64) for _ in range(2))

    def observer(gate: Gate) -> Callable[[Tensor], Tensor]:
        units = torch.from_numpy(gate.units)
        owned = units >= 0

        def observe(value: Tensor) -> Tensor:
            counted = _count_by(value.abs() > threshold, tuple(units.shape)).cpu()
            each = torch.full(units.shape, value.numel() / max(units.numel(), 1), dtype=torch.float64)
            active.index_add_(0, units[owned], counted[owned])
            seen.index_add_(0, units[owned], each[owned])
            return value

        return observe

    gates = {(twin.positions[gate.node], gate.argument): observer(gate) for gate in anatomy.gates}
    with torch.no_grad():
        for batch in batches:
            twin.run(state, batch, gates)
    share: FloatArray = (active / seen).numpy()
    return share


def _slopes(twin: Twin, anatomy: Anatomy, state: State, samples: Sequence[Any]) -> Tensor:
    """Slope of each sample's loss in each unit: [samples, units + 1], the last column for no unit."""
    flat = [pytree.tree_flatten(sample) for sample in samples]
    spec = flat[0][1]
    leaves = list(zip(*(found for found, _ in flat), strict=True))
    is_tensor = [isinstance(values[0], Tensor) for values in leaves]
    device = next((v[0].device for v, t in zip(leaves, is_tensor, strict=True) if t), torch.device("cpu"))
    ones = torch.ones(anatomy.num_units + 1, device=device)

    def slope(*values: Any) -> Tensor:
        def loss(row: Tensor) -> Tensor:
            sample = pytree.tree_unflatten(list(values), spec)
            result: Tensor = twin.run(state, sample, twin.multipliers(anatomy.gates, row))[0]
            return result.reshape(())

        gradient: Tensor = torch.func.grad(loss)(ones)
        return gradient

    stacked = [torch.stack(v) if t else v[0] for v, t in zip(leaves, is_tensor, strict=True)]
    axes = tuple(0 if tensor else None for tensor in is_tensor)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
        try:
            found: Tensor = torch.vmap(slope, in_dims=axes, randomness="same")(*stacked)
            return found
        except RuntimeError:  # an operator without one, or one that writes in place: one after the other
            rows = zip(*leaves, strict=True)
            return torch.stack([slope(*values) for values in rows])


def _parts(batch: Any, is_batch_dynamic: bool) -> list[list[Any]]:
    """Single samples, a few at a time, or the whole batch as one; a sample comes as a batch of two.

    The exporter may have assumed at least two samples, and two equal ones have the loss of one.
    """
    sizes = {leaf.shape[0] for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()}
    if not is_batch_dynamic or len(sizes) != 1:
        return [[batch]]

    def twice(number: int) -> Any:
        return pytree.tree_map(
            lambda leaf: leaf[[number, number]] if isinstance(leaf, Tensor) and leaf.dim() else leaf, batch
        )

    samples = [twice(number) for number in range(sizes.pop())]
    return [samples[start : start + _SAMPLES_AT_ONCE] for start in range(0, len(samples), _SAMPLES_AT_ONCE)]


def _count_by(is_true: Tensor, shape: tuple[int, ...]) -> Tensor:
    """How often it is true, for every entry of a tensor of `shape` that is broadcast to it: float64."""
    lead = is_true.dim() - len(shape)
    axes = [*range(lead), *(axis for axis, size in enumerate(shape, lead) if size == 1)]
    counted = is_true.sum(axes, dtype=torch.float64) if axes else is_true.double()
    return counted.reshape(shape)
