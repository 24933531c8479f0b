"""Masks in the live network: units set to zero and kept there, until they are restored exactly or cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from esper.anatomy import Anatomy
from esper.anatomy.cut import WeightCopies, copy_in, zero_state
from esper.anatomy.proof import live_tensors
from esper.anatomy.units import masked_axes
from esper.arrays import BoolArray, IntArray
from esper.errors import MaskError
from esper.kasmina.plain_copies import PlainCopy
from esper.kasmina.steps import STEPS

Axes = list[tuple[int, IntArray]]
"""The masked coordinates of one tensor, by axis."""
Places = list[tuple[int, Tensor]]
"""The same as index tensors on the tensor's device."""


class MaskKeeper:
    """Masks units of one network and keeps them masked while it trains.

    Masked coordinates are zeroed in parameters and in optimizer state, and again after every optimizer step,
    by index: the cost grows with what is masked, not with the network. Their gradients are zeroed as soon as
    they are complete, so that clipping by the global norm and the moments see what the cut network would see.
    The values they had are kept, so `unmask` restores them bit for bit. Nothing is registered on the modules,
    so the `state_dict` does not change.

    Companions (an EMA of the network) are masked at the same coordinates. What is averaged into them is zero
    there, so they stay masked, and what they compute is an average of the masked network. Weights that an
    optimizer keeps in its state (master copies, slow weights) are hidden and given back like the parameters.

    Where several optimizers train one network (Muon for matrices, AdamW for the rest), each that steps one
    of its parameters is one of `optimizers` from then on, whoever was given.

    Args:
        model: the network.
        anatomy: its anatomy.
        optimizers: those that are known to train it.
        companions: modules that hold a copy of the network.

    Attributes:
        in_companions: the copies of the network in them.
        plain_copies: those of the companions that loops keep as plain tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        optimizers: Sequence[Optimizer],
        companions: Sequence[nn.Module] = (),
    ) -> None:
        self.anatomy = anatomy
        self.keep: BoolArray = np.ones(anatomy.num_units, dtype=np.bool_)
        self._optimizers = tuple(optimizers)
        self._prefixes = ["", *(f"companion {number}: " for number in range(len(companions)))]
        self.in_companions = [copy_in(companion, model, anatomy) for companion in companions]
        self.plain_copies = [one for one in companions if isinstance(one, PlainCopy)]
        self._tensors = {
            prefix + name: tensor
            for prefix, copied in zip(self._prefixes, (model, *self.in_companions), strict=True)
            for name, tensor in live_tensors(copied, anatomy).items()
        }
        self._copies = WeightCopies(())
        self._copied: dict[str, tuple[str, str]] = {}
        """Copies of weights in optimizer state, by their names here: the parameter, and the name there."""
        self._originals: dict[str, Tensor] = {}
        self._places: dict[str, Places] = {}
        self._own = {id(tensor) for tensor in live_tensors(model, anatomy).values()}
        self._steps: list[RemovableHandle] = [
            optimizer.register_step_post_hook(self._after_step) for optimizer in self._optimizers
        ]
        self._gradients: list[RemovableHandle] = []
        STEPS.tell(self)

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """Those that train the network: first those that were given, then the others as they came."""
        return self._optimizers

    def adopt(self, optimizer: Optimizer) -> None:
        """Looks after an optimizer as well, if it trains the network and is not known."""
        trained = (id(parameter) for group in optimizer.param_groups for parameter in group["params"])
        if any(optimizer is known for known in self._optimizers) or self._own.isdisjoint(trained):
            return
        self._optimizers += (optimizer,)
        self._steps.append(optimizer.register_step_post_hook(self._after_step))
        if self._places:
            self._zero()
            self._zero_state((optimizer,))

    @property
    def num_masked(self) -> int:
        return int((~self.keep).sum())

    def originals(self) -> dict[str, Tensor]:
        """The values under the mask, by parameter: row by row, shape [masked coordinates].

        Those of companions stand under `companion <number>: <parameter>`.
        """
        return dict(self._originals)

    def apply(self, keep: BoolArray, originals: Mapping[str, Tensor] | None = None) -> None:
        """Masks exactly the units that `keep` marks False. Units masked before must stay masked.

        Args:
            keep: bool [units].
            originals: the values to restore later, when they are known from a checkpoint.

        Raises:
            MaskError: mask or originals do not fit, or a masked unit would come back; nothing changed.
        """
        self.anatomy.check_mask(keep)
        if bool((keep & ~self.keep).any()):
            raise MaskError(
                f"{int((keep & ~self.keep).sum())} unit(s) that are masked now are not in the new mask. "
                "Call unmask() first to bring units back."
            )
        self._find_copies(originals)
        axes = self._axes(keep)
        self._originals = self._hidden(axes) if originals is None else self._given(axes, originals)
        self.keep = keep.copy()
        self._bind(axes)
        self._zero()
        self._zero_gradients_and_state()

    def unmask(self, but: BoolArray | None = None) -> None:
        """Gives masked coordinates the values that they had before; the rest keeps what it learned.

        Args:
            but: bool [units]; what it marks False stays masked. Its units must be masked now.
        """
        with torch.no_grad():
            for name, axes in self._axes(self.keep).items():
                tensor = self._tensor(name)
                tensor[_masked_places(tensor, axes)] = self._originals[name].to(tensor)
        self.keep = np.ones(self.anatomy.num_units, dtype=np.bool_)
        self._originals = {}
        self._bind({})
        if but is not None:
            self.apply(but)

    def follow(self) -> None:
        """Looks after the tensors that loops have in their averages by now, if these are others."""
        others = [copy.take() for copy in self.plain_copies]
        if not any(others):
            return
        for prefix, copied in zip(self._prefixes[1:], self.in_companions, strict=True):
            live = live_tensors(copied, self.anatomy)
            self._tensors |= {prefix + name: tensor for name, tensor in live.items()}
        # What is hidden has the type of where it belongs, or a checkpoint of it would not fit.
        self._originals |= {
            name: hidden.to(self._tensors[name])
            for name, hidden in self._originals.items()
            if name in self._tensors
        }
        self._bind(self._axes(self.keep))

    def num_revived(self) -> int:
        """Masked values that are not zero, companions included: none, unless somebody wrote them."""
        where = {
            name: _masked_places(self._tensor(name), axes) for name, axes in self._axes(self.keep).items()
        }
        return sum(int(self._tensor(name).detach()[gone].count_nonzero()) for name, gone in where.items())

    def detach(self) -> None:
        """Stops keeping; the network stays as it is."""
        for handle in (*self._steps, *self._gradients):
            handle.remove()
        self._steps, self._gradients = [], []
        STEPS.tell_no_more(self)

    def _axes(self, keep: BoolArray) -> dict[str, Axes]:
        """What a mask zeroes, in the network, in every companion and in copies that optimizers keep."""
        grouped: dict[str, Axes] = {}
        for (name, axis), gone in masked_axes(self.anatomy, keep).items():
            for prefix in self._prefixes:
                grouped.setdefault(prefix + name, []).append((axis, gone))
        # A copy in an optimizer's state is masked where its parameter is.
        copies = {copy: grouped[name] for copy, (name, _) in self._copied.items() if name in grouped}
        return grouped | copies

    def _find_copies(self, originals: Mapping[str, Tensor] | None) -> None:
        """Looks for weights in the optimizers' state; what was hidden before stays known.

        Args:
            originals: the values under the mask where a checkpoint gives them; its copies are the copies.
        """
        hidden = self._originals if originals is None else originals
        # Whatever is hidden and no tensor's is a copy's: `<copy>: <tensor>`.
        known = {name.partition(": ")[0] for name in hidden if name not in self._tensors}
        self._copies = WeightCopies(self._optimizers, known, is_complete=originals is not None)
        self._copied = {
            f"{copy}: {name}": (name, copy)
            for name, tensor in self._tensors.items()
            for copy in self._copies.of(tensor)
        }

    def _tensor(self, name: str) -> Tensor:
        """A live tensor by its name here; optimizers replace those of their state, so these are asked for."""
        if name in self._tensors:
            return self._tensors[name]
        parameter, copy = self._copied[name]
        return self._copies.of(self._tensors[parameter])[copy]

    def _hidden(self, axes: Mapping[str, Axes]) -> dict[str, Tensor]:
        """The values of coordinates masked for the first time, and the older ones of those masked before."""
        before = self._axes(self.keep)
        hidden = {}
        for name, places in axes.items():
            values = self._tensor(name).detach().clone()
            # A masked coordinate reads 0 by now, so its older value is put back first, in this copy.
            if name in self._originals:
                values[_masked_places(values, before[name])] = self._originals[name].to(values)
            hidden[name] = values[_masked_places(values, places)]
        return hidden

    def _given(self, axes: Mapping[str, Axes], originals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = {}
        for name, places in axes.items():
            tensor = self._tensor(name)
            expected = int(_masked_places(tensor, places).sum())
            values = originals.get(name)
            if values is None or values.shape != (expected,) or values.dtype != tensor.dtype:
                has = "nothing" if values is None else f"{values.dtype} of shape {tuple(values.shape)}"
                raise MaskError(
                    f"The values under the mask do not fit {name}: {has} was given, {expected} values of "
                    f"type {tensor.dtype} were expected. They are of another mask or network."
                )
            given[name] = values.detach().clone()
        return given

    def _bind(self, axes: Mapping[str, Axes]) -> None:
        self._places = {name: _on_device(self._tensor(name), gone) for name, gone in axes.items()}
        for handle in self._gradients:
            handle.remove()
        self._gradients = [
            self._tensors[name].register_post_accumulate_grad_hook(partial(self._after_backward, name))
            for name in axes
            if name in self._tensors and self._tensors[name].requires_grad and self._steps
        ]

    def _after_step(self, *_: object) -> None:
        self._zero()

    def _after_backward(self, name: str, tensor: Tensor) -> None:
        gradient = tensor.grad
        if gradient is not None and not gradient.is_sparse:  # sparse ones have no axes to index
            _fill(gradient, self._placed(name))

    def _zero(self) -> None:
        with torch.no_grad():
            for name in self._places:
                _fill(self._tensor(name), self._placed(name))

    def _zero_gradients_and_state(self) -> None:
        """Masked coordinates carry no momentum either, or they would be pushed at every step."""
        with torch.no_grad():
            for name in self._places:
                if name in self._tensors:
                    self._after_backward(name, self._tensors[name])
        self._zero_state(self._optimizers)

    def _zero_state(self, optimizers: Sequence[Optimizer]) -> None:
        masked = {
            self._tensors[name]: dict(self._placed(name)) for name in self._places if name in self._tensors
        }
        with torch.no_grad():
            for optimizer in optimizers:
                zero_state(optimizer, masked)

    def _placed(self, name: str) -> Places:
        """The indices of a tensor; they follow it to another device."""
        places, device = self._places[name], self._tensor(name).device
        if places and places[0][1].device != device:
            places = self._places[name] = [(axis, index.to(device)) for axis, index in places]
        return places


def _fill(tensor: Tensor, places: Places) -> None:
    for axis, index in places:
        tensor.index_fill_(axis, index, 0)


def _on_device(tensor: Tensor, axes: Axes) -> Places:
    return [(axis, torch.from_numpy(gone).to(tensor.device)) for axis, gone in axes]


def _masked_places(tensor: Tensor, axes: Axes) -> Tensor:
    """Bool tensor of the same shape: True at every masked coordinate."""
    where = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
    for axis, index in _on_device(tensor, axes):
        where.index_fill_(axis, index, True)
    return where
