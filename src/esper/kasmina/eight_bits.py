"""Weights that rest in eight bits and are computed with in their own precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from esper.errors import LifecycleError

_LARGEST = 127
"""Codes go from -127 to 127: zero is one of them."""

_ROW = 64
"""Numbers that share a scale, at least, where an axis more can be had for it."""

_SCALE_BYTES = 2

_BLOCK = 1 << 20
"""Numbers of a weight that a linear layer has whole at a time."""

_aten = torch.ops.aten


class EightBits(Tensor):
    """A weight as whole numbers from -127 to 127 with a scale for each of its rows.

    A row is one output channel; of weights with many numbers per channel pair (large kernels, stacks of
    matrices) it is a part of one. Whatever is computed with the weight gets it in its own shape and dtype,
    made anew for that operator and gone after it, so shared weights, compiled networks and modules with
    operators of their own need nothing for it. Matrix products get it part by part, and tables give the rows
    that are asked for. It can be moved, copied, and given other values as a whole.

    Attributes:
        codes: int8, of the shape of the weight.
        scales: bfloat16, the same shape with 1 along the axes of a row.

    Source: symmetric weight-only quantization with the largest magnitude of a row as its end.
    """

    codes: Tensor
    scales: Tensor

    @staticmethod
    def __new__(cls, codes: Tensor, scales: Tensor, dtype: torch.dtype) -> EightBits:
        made: EightBits = Tensor._make_wrapper_subclass(  # noqa: SLF001 (torch's way to make one)
            cls, codes.shape, strides=codes.stride(), dtype=dtype, device=codes.device
        )
        made.codes, made.scales = codes, scales
        return made

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> EightBits:
        """The nearest one to a weight; a row with something in it that is no number is none as a whole.

        Args:
            weight: floats, of two axes or more.
            dtype: of the weight when it is computed with.
        """
        return cls(*_rounded(weight.detach().to(dtype)), dtype)

    @property
    def nbytes(self) -> int:  # type: ignore[override]  # torch's is declared as an attribute
        """What it takes at rest."""
        return self.codes.nbytes + self.scales.nbytes

    def whole(self) -> Tensor:
        """The weight as it is computed with."""
        return self.codes.to(self.dtype).mul_(self.scales)

    def __repr__(self) -> str:  # type: ignore[override]  # torch's takes contents
        return f"{type(self).__name__}({list(self.shape)}, {self.dtype}, {self.device})"

    # Operators meet it one level down, where also those of scripted and compiled networks pass.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # noqa: SLF001

    def __tensor_flatten__(self) -> tuple[list[str], torch.dtype]:
        return ["codes", "scales"], self.dtype

    @staticmethod
    def __tensor_unflatten__(parts: Mapping[str, Tensor], dtype: torch.dtype, *_: Any) -> EightBits:
        return EightBits(parts["codes"], parts["scales"], dtype)

    def _stable_hash_for_caching(self) -> str:
        """For `torch.compile`, which keeps programs by what their tensors look like."""
        return f"{self!r} {list(self.scales.shape)}"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's is declared as a plain function
        cls, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if operator in _KEPT and isinstance(args[0], EightBits):
            return _KEPT[operator](*args, **kwargs)
        if operator in _PRODUCTS and not kwargs and list(map(type, args[-2:])) == [Tensor, cls]:
            return _PRODUCTS[operator](*args)
        written = kwargs.get("out", args[0])
        if operator._schema.is_mutable and isinstance(written, EightBits):  # noqa: SLF001 (says what it writes)
            raise LifecycleError(
                f"{operator} was to change a teacher's weight that rests in eight bits, which takes other "
                "values as a whole only. Nothing was changed. Give them by `teacher.load(...)`."
            )
        args, kwargs = pytree.tree_map_only(EightBits, EightBits.whole, (args, kwargs))
        return operator(*args, **kwargs)


def is_smaller(weight: Tensor) -> bool:
    """Whether a weight would take less in eight bits."""
    rows = math.prod(weight.shape[: _row_axes(weight.shape)[0]])
    return weight.numel() + rows * _SCALE_BYTES < weight.nbytes


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight."""
    codes = torch.empty_like(weight, dtype=torch.int8)  # first, or it would stand between what is freed
    weight = weight.float() if weight.dtype.itemsize < 4 else weight
    largest = torch.linalg.vector_norm(weight, torch.inf, _row_axes(weight.shape), keepdim=True)
    # Codes are about the scales as they are kept, so that weights that were rounded once round to themselves.
    scales = (largest / _LARGEST).bfloat16()
    steps = torch.where(scales > 0, scales, 1.0).to(weight.dtype)
    codes.copy_((weight / steps).round_().clamp_(-_LARGEST, _LARGEST).nan_to_num_(1.0))
    return codes, scales


def _row_axes(shape: torch.Size) -> list[int]:
    """The last axes of a shape, as few as hold `_ROW` numbers, and never the first."""
    first = len(shape) - 1
    while first > 1 and math.prod(shape[first:]) < _ROW:
        first -= 1
    return list(range(first, len(shape)))


def _copied(weight: EightBits, values: Tensor, *_: Any) -> EightBits:
    """Other values for it, rounded."""
    codes, scales = _rounded(values.to(weight.device, weight.dtype))
    weight.codes.copy_(codes)
    weight.scales.copy_(scales)
    return weight


def _moved(weight: EightBits, **to: Any) -> Tensor:
    """The same somewhere else, or computed with in another precision, as autocast asks for."""
    dtype = to.pop("dtype", None) or weight.dtype
    if not dtype.is_floating_point:
        return weight.whole().to(dtype)
    to = {name: to[name] for name in ("device", "non_blocking") if to.get(name) is not None}
    return EightBits(weight.codes.to(**to, copy=True), weight.scales.to(**to, copy=True), dtype)


def _product(rows: Tensor, weight: EightBits, bias: Tensor | None = None) -> Tensor:
    """`rows @ weight`, [m, k] and [k, n], and a bias [n]; so many columns at a time as `_BLOCK` holds."""
    count = weight.shape[1]
    columns = max(_BLOCK // max(weight.shape[0], 1), 1)
    made = rows.new_empty(len(rows), count)
    for first in range(0, count, columns):
        part = slice(first, first + columns)
        scales = weight.scales[:, part] if weight.scales.shape[1] > 1 else weight.scales
        whole = EightBits(weight.codes[:, part], scales, weight.dtype).whole()
        made[:, part] = rows @ whole if bias is None else torch.addmm(bias[part], rows, whole)
    return made


def _added_product(bias: Tensor, rows: Tensor, weight: EightBits) -> Tensor:
    """The same with the bias of a linear layer; what else can be added has rows, and meets it whole."""
    if bias.dim() > 1:
        return torch.addmm(bias, rows, weight.whole())
    return _product(rows, weight, bias.expand(weight.shape[1]))


def _looked_up(weight: EightBits, numbers: Tensor, *_: Any) -> Tensor:
    """Rows of a table by their numbers; how gradients would be shared out does not matter without any."""
    return EightBits(weight.codes[numbers], weight.scales[numbers], weight.dtype).whole()


def _each(work: Callable[..., Tensor]) -> Callable[..., EightBits]:
    """Done with codes and scales, of which a weight is made again."""
    return lambda weight, **how: EightBits(
        work(weight.codes, **how), work(weight.scales, **how), weight.dtype
    )


_KEPT: Mapping[Any, Callable[..., Any]] = {
    _aten.detach.default: _each(Tensor.detach),
    _aten.alias.default: _each(Tensor.detach),
    _aten.clone.default: _each(Tensor.clone),
    _aten._to_copy.default: _moved,  # noqa: SLF001 (the name of the operator)
    _aten.copy_.default: _copied,
    _aten.t.default: _each(Tensor.t),
    _aten.embedding.default: _looked_up,
}
"""Operators on such a weight that need not have it whole, or whose result rests in eight bits too."""

_PRODUCTS: Mapping[Any, Callable[..., Tensor]] = {
    _aten.mm.default: _product,
    _aten.addmm.default: _added_product,
}
"""Those of linear layers, which take a part of it at a time."""
