"""Masks in the live network: units set to zero and kept there, until they are restored exactly or cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from esper.anatomy import Anatomy, masked_axes
from esper.anatomy.structure import BoolArray, IntArray
from esper.anatomy.tensors import live_tensors
from esper.errors import MaskError

AxisKey = tuple[str, int]


class MaskKeeper:
    """Masks units of one network and keeps them masked while it trains.

    Masked coordinates are zeroed in parameters and in optimizer state, and again after every optimizer step, by index:
    the cost grows with what is masked, not with the network. The values they had are kept, so `unmask` restores them
    bit for bit. Nothing is registered on the network, so its `state_dict` does not change.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, optimizers: Sequence[Optimizer]) -> None:
        self.anatomy = anatomy
        self.keep: BoolArray = np.ones(anatomy.num_units, dtype=np.bool_)
        self._optimizers = tuple(optimizers)
        self._tensors = live_tensors(model, anatomy)
        self._originals: dict[str, Tensor] = {}
        self._index: list[tuple[Tensor, int, Tensor]] = []
        self._handles: list[RemovableHandle] = [
            o.register_step_post_hook(self._after_step) for o in self._optimizers
        ]

    @property
    def num_masked(self) -> int:
        return int((~self.keep).sum())

    def originals(self) -> dict[str, Tensor]:
        """For every parameter with masked coordinates: the values that were there, in memory order, shape [masked]."""
        return dict(self._originals)

    def apply(self, keep: BoolArray, originals: Mapping[str, Tensor] | None = None) -> None:
        """Masks exactly the units that `keep` marks False. Units masked before must stay masked.

        Args:
            keep: bool [units].
            originals: the values to restore later, when they are known from a checkpoint.

        Raises:
            MaskError: the mask does not fit, or would bring back a masked unit; nothing changed.
        """
        self.anatomy.check_mask(keep)
        if bool((keep & ~self.keep).any()):
            raise MaskError(
                f"{int((keep & ~self.keep).sum())} unit(s) that are masked now are not in the new mask. "
                "Call unmask() first to bring units back."
            )
        axes = masked_axes(self.anatomy, keep)
        self._remember(axes, originals)
        self.keep = keep.copy()
        self._bind(axes)
        self._zero()
        self._zero_state()

    def unmask(self) -> None:
        """Gives every masked coordinate the value it had when it was masked; the rest keeps what it learned."""
        with torch.no_grad():
            for name, axes in _by_tensor(masked_axes(self.anatomy, self.keep)).items():
                tensor = self._tensors[name]
                tensor[_masked_places(tensor, axes)] = self._originals[name].to(tensor)
        self.keep = np.ones(self.anatomy.num_units, dtype=np.bool_)
        self._originals, self._index = {}, []

    def detach(self) -> None:
        """Stops keeping; the network stays as it is."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _remember(self, axes: Mapping[AxisKey, IntArray], originals: Mapping[str, Tensor] | None) -> None:
        """Keeps the values of coordinates that are masked for the first time; those masked before keep the older ones."""
        before = _by_tensor(masked_axes(self.anatomy, self.keep))
        for name, places in _by_tensor(axes).items():
            if originals is not None:
                self._originals[name] = originals[name].clone()
                continue
            values = self._tensors[name].detach().clone()
            if name in self._originals:
                values[_masked_places(values, before[name])] = self._originals[name]
            self._originals[name] = values[_masked_places(values, places)]

    def _bind(self, axes: Mapping[AxisKey, IntArray]) -> None:
        self._index = [
            (self._tensors[name], axis, torch.from_numpy(gone).to(self._tensors[name].device))
            for (name, axis), gone in axes.items()
        ]

    def _after_step(self, *_: object) -> None:
        self._zero()

    def _zero(self) -> None:
        with torch.no_grad():
            for tensor, axis, index in self._index:
                tensor.index_fill_(axis, index, 0)

    def _zero_state(self) -> None:
        """Masked coordinates carry no momentum either, or they would be pushed at every step."""
        states = [optimizer.state for optimizer in self._optimizers]
        with torch.no_grad():
            for tensor, axis, index in self._index:
                for state in states:
                    for value in state.get(tensor, {}).values():
                        if isinstance(value, Tensor) and value.shape == tensor.shape:
                            value.index_fill_(axis, index, 0)


def _by_tensor(axes: Mapping[AxisKey, IntArray]) -> dict[str, list[tuple[int, IntArray]]]:
    grouped: dict[str, list[tuple[int, IntArray]]] = {}
    for (name, axis), gone in axes.items():
        grouped.setdefault(name, []).append((axis, gone))
    return grouped


def _masked_places(tensor: Tensor, axes: Sequence[tuple[int, IntArray]]) -> Tensor:
    """Bool tensor of the same shape: True at every masked coordinate."""
    where = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    for axis, gone in axes:
        where.index_fill_(axis, torch.from_numpy(gone).to(tensor.device), True)
    return where
