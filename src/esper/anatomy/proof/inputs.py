"""The inputs on which two networks are compared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

PROOF_SAMPLES = 8
"""So many samples are enough to tell two networks apart."""
_FEWEST = 2
_ENOUGH_FLOPS = 8e9
"""Networks that work as much on fewer samples are told apart by those."""


@dataclass(frozen=True)
class Inputs:
    """What a network is called with in a proof: `model(*args, **kwargs)`.

    Where `is_quick`, outputs are compared in float32 alone: a trial, which a proof follows. Where
    `is_batch_dynamic`, the network takes any number of samples. `graphs` holds what was traced with these
    inputs, for as long as they are: a search for what can be cut compares one network with many cuts of it.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_quick: bool = False
    is_batch_dynamic: bool = False
    graphs: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        split: tuple[tuple[Any, ...], Mapping[str, Any], Any],
        *,
        is_batch_dynamic: bool,
        flops: float = 0.0,
    ) -> Inputs:
        """The inputs of one batch.

        Args:
            split: positional inputs, keyword inputs, and a target, which is left out; see `split_sample`.
            is_batch_dynamic: whether the network takes any number of samples; then a few are taken.
            flops: the work of one sample; the more that is, the fewer are taken.
        """
        inputs = cls(split[0], split[1], is_batch_dynamic=is_batch_dynamic)
        count = PROOF_SAMPLES if flops == 0 else int(min(max(_ENOUGH_FLOPS / flops, _FEWEST), PROOF_SAMPLES))
        return inputs.first(count) if is_batch_dynamic else inputs

    def few(self) -> Inputs:
        """As few samples as can tell two networks apart, where the network takes any number: for trials."""
        return self.first(_FEWEST) if self.is_batch_dynamic else self

    def cast(self, dtype: torch.dtype) -> Inputs:
        """A copy in that precision; networks that write into their inputs do not write into these."""
        return self._mapped(lambda leaf: in_precision(leaf, dtype, copy=True))

    def beside(self, model: nn.Module) -> Inputs:
        """The same on the network's device."""
        home = next((p.device for p in model.parameters()), None)
        return self if home is None else self._mapped(lambda leaf: leaf.to(home))

    def first(self, count: int = sys.maxsize) -> Inputs:
        """Copies of the first samples: for a network whose batch may have any size."""
        return self._mapped(lambda leaf: (leaf[:count] if leaf.dim() else leaf).detach().clone())

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        def to(leaf: Any) -> Any:
            return change(leaf) if isinstance(leaf, Tensor) else leaf

        args, kwargs = pytree.tree_map(to, (self.args, dict(self.kwargs)))
        return replace(self, args=args, kwargs=kwargs, graphs={})


def is_number(leaf: Any) -> bool:
    """Is it a tensor that outputs and gradients are compared by?"""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())


def in_precision(tensor: Tensor, dtype: torch.dtype, *, copy: bool) -> Tensor:
    """The tensor in that precision, complex ones in its complex counterpart; others keep their type.

    Without `copy` it may share memory with the original.
    """
    if is_number(tensor):
        dtype = dtype.to_complex() if tensor.is_complex() else dtype
        return tensor.detach().to(dtype, copy=copy)
    return tensor.detach().clone() if copy else tensor.detach()
