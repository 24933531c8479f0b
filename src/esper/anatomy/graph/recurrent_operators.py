"""Operators without content that stand in for torch's recurrent ones while the exporter looks.

Each has the arguments of its model and says the shapes of what that would give. Packed sequences hold as
many rows as there are steps in all samples, which nobody knows before the lengths are read: their stand-ins
have a row for every step of every sample, and what is padded again has a number of steps of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, library
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensor
from torch.fx.experimental.symbolic_shapes import DimDynamic

_WEIGHTS = "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional"
_CELL = "Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh"
_PLAIN = ("gru", "rnn_tanh", "rnn_relu")
_LAYERS, _CELLS = ("lstm", *_PLAIN), ("lstm_cell", *(f"{name}_cell" for name in _PLAIN))

_LIBRARY = library.Library("esper", "FRAGMENT")
OF_TORCH: dict[Any, Any] = {}
"""By operator of torch what stands in for it."""
DROPOUT_AT: dict[Any, int] = {}
"""Where torch's layers are told how much they drop; behind it, whether they train."""


def _stand_in(theirs: Any, name: str, signature: str, shapes: Callable[..., Any]) -> None:
    """Makes an operator without content, of which the exporter only learns the shapes."""
    _LIBRARY.define(f"{name}{signature}")
    library.register_fake(f"esper::{name}", shapes, lib=_LIBRARY)
    OF_TORCH[theirs] = getattr(torch.ops.esper, name).default


def _layer(x: Tensor, hx: Any, *given: Any) -> tuple[Tensor, ...]:
    """Without content: as many steps and samples as came in, and what each layer ends with."""
    bidirectional = given[5]
    states = hx if isinstance(hx, (list, tuple)) else [hx]
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty(*x.shape[:-1], width), *(torch.empty_like(state) for state in states)


def _packed_layer(data: Tensor, _sizes: Tensor, hx: Any, *given: Any) -> tuple[Tensor, ...]:
    return _layer(data, hx, *given)


def _cell(_x: Tensor, hx: Any, *_: Any) -> Any:
    is_lstm = isinstance(hx, (list, tuple))
    return tuple(torch.empty_like(state) for state in hx) if is_lstm else torch.empty_like(hx)


def _pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """As if every sample had all steps; how many rows there really are is in the lengths."""
    steps = x.shape[1 if batch_first else 0]
    return x.new_empty(x.shape[0] * x.shape[1], *x.shape[2:]), lengths.new_empty(steps)


def _pad(
    data: Tensor, batch_sizes: FakeTensor, batch_first: bool, _value: float, steps: int
) -> tuple[Tensor, Tensor]:
    samples = data.shape[0] // batch_sizes.shape[0]
    if not steps:
        steps = _longest(batch_sizes)
    first = (samples, steps) if batch_first else (steps, samples)
    return data.new_empty(*first, *data.shape[1:]), batch_sizes.new_empty(samples)


_NUMBERS = count()


def _longest(batch_sizes: FakeTensor) -> Any:
    """The steps of the longest sample: a size of its own, which in this batch is that of what was packed."""
    size: Any = batch_sizes.shape[0]
    sizes = batch_sizes.fake_mode.shape_env
    if not isinstance(size, torch.SymInt) or sizes is None:
        return size
    source, hint = ConstantSource(f"steps_of_the_longest_{next(_NUMBERS)}"), size.node.hint
    symbol = sizes.create_symbol(hint, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None)
    return sizes.create_symintnode(symbol, hint=hint, source=source)


for _name in _LAYERS:
    _states, _results = ("Tensor[]", "Tensor, " * 2) if _name == "lstm" else ("Tensor", "Tensor, ")
    _of_layer, _of_cell = getattr(torch.ops.aten, _name), getattr(torch.ops.aten, f"{_name}_cell")
    _given = f"{_states} hx, {_WEIGHTS}"
    DROPOUT_AT.update({_of_layer.input: 5, _of_layer.data: 6})
    _stand_in(_of_layer.input, _name, f"(Tensor x, {_given}, bool batch_first) -> ({_results}Tensor)", _layer)
    _stand_in(
        _of_layer.data,
        f"{_name}_data",
        f"(Tensor x, Tensor sizes, {_given}) -> ({_results}Tensor)",
        _packed_layer,
    )
    _end = "(Tensor, Tensor)" if _name == "lstm" else "Tensor"
    _stand_in(_of_cell.default, f"{_name}_cell", f"(Tensor x, {_states} hx, {_CELL}) -> {_end}", _cell)
_stand_in(
    getattr(torch.ops.aten, "_pack_padded_sequence").default,  # noqa: B009 - the operator's own name
    "pack",
    "(Tensor x, Tensor lengths, bool batch_first) -> (Tensor, Tensor)",
    _pack,
)
PAD: Any = getattr(torch.ops.aten, "_pad_packed_sequence").default  # noqa: B009 - the operator's own name
_stand_in(
    PAD,
    "pad",
    "(Tensor x, Tensor sizes, bool batch_first, Scalar value, SymInt steps) -> (Tensor, Tensor)",
    _pad,
)
STAND_INS: Mapping[Any, Any] = {ours: theirs for theirs, ours in OF_TORCH.items()}
"""And the other way round."""


class Sizes:
    """How many samples each step of a packed sequence has, of which code asks only how many the first has."""

    device = torch.device("cpu")

    def __init__(self, sizes: Tensor, samples: Any) -> None:
        self.sizes, self._samples = sizes, samples
        self.shape = sizes.shape
        self.steps = sizes.shape[0]

    def __getitem__(self, step: int) -> Any:
        return self._samples if step == 0 else self.sizes[step]

    def size(self, _axis: int = 0) -> Any:
        return self.steps


class Functions:
    """Torch's functions on recurrent weights and packed sequences, with stand-ins in the thread it is of."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions
        self._thread = get_ident()

    def __getattr__(self, name: str) -> Any:
        if get_ident() != self._thread:  # somebody trains meanwhile
            return getattr(self._functions, name)
        if name in _LAYERS:
            return partial(_call_layer, name)
        if name in _CELLS:
            return getattr(torch.ops.esper, name)
        return _PACKING.get(name) or getattr(self._functions, name)


@dataclass(frozen=True)
class _Asked:
    """What is to be packed, before it is known whether it is sorted."""

    x: Tensor
    lengths: Tensor
    batch_first: bool


def _ask(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, _Asked]:
    return x, _Asked(x, lengths, batch_first)


def sorting(init: Callable[..., Any]) -> Callable[..., Any]:
    """Makes packed sequences that sort their samples, also where code says that they are sorted already.

    Looks at a network take samples in any order.
    """

    def packed(data: Tensor, sizes: Any, order: Tensor | None = None, back: Tensor | None = None) -> Any:
        if not isinstance(sizes, _Asked):
            return init(data, sizes, order, back)
        x, lengths, samples = sizes.x, sizes.lengths, 0 if sizes.batch_first else 1
        if order is None:
            lengths, order = torch.sort(lengths, descending=True)
            order = order.to(x.device)
            x = x.index_select(samples, order)
        data, of_steps = torch.ops.esper.pack(x, lengths, sizes.batch_first)
        return init(data, Sizes(of_steps, x.shape[samples]), order, back)

    return packed


def _call_pad(
    data: Tensor, sizes: Sizes, batch_first: bool, value: float, steps: Any
) -> tuple[Tensor, Tensor]:
    asked = 0 if steps is sizes.steps else steps  # 0: as many as the longest has, which the lengths say
    padded: tuple[Tensor, Tensor] = torch.ops.esper.pad(data, sizes.sizes, batch_first, value, asked)
    return padded


_PACKING = {"_pack_padded_sequence": _ask, "_pad_packed_sequence": _call_pad}


def _call_layer(name: str, x: Tensor, *given: Any) -> Any:
    if isinstance(given[0], Sizes):
        return getattr(torch.ops.esper, f"{name}_data")(x, given[0].sizes, *given[1:])
    return getattr(torch.ops.esper, name)(x, *given)


def unchecked(check: Callable[..., None]) -> Callable[..., None]:
    """The check of what a layer is given, which asks packed sequences for numbers that a graph would keep."""

    def checked(layer: Any, x: Any, hidden: Any, sizes: Any) -> None:
        if not isinstance(sizes, Sizes):
            check(layer, x, hidden, sizes)

    return checked
