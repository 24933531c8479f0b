"""What stands in, while the exporter looks, for the few parts of torch that look at values themselves."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_impls import op_implementations_dict
from torch.distributions import Distribution
from torch.nn.modules import transformer

_CTC = getattr(torch.ops.aten, "_ctc_loss").Tensor  # noqa: B009 - the operator's own name begins like that
_len = len


@contextmanager
def standing_in() -> Iterator[None]:
    """Attention masks of `nn.Transformer`, the CTC loss, distributions and `len` of a tensor can be followed.

    Without `is_causal=` the encoder and the decoder of torch compare every mask with the causal one, for a
    kernel that needs no mask. It is applied as it is instead, which gives the same up to rounding. Of the CTC
    loss the exporter only asks the shapes, of which one depends on lengths; no graph reads that output. And
    `len(x)` has to be a plain number, which the exporter would keep for good: `x.shape[0]` may stay open.
    """
    with ExitStack() as changes:
        changes.enter_context(set_in(vars(transformer), "_detect_is_causal_mask", _is_said_to_be_causal))
        changes.enter_context(set_in(vars(builtins), "len", _open_len))
        changes.enter_context(set_in(op_implementations_dict, _CTC, _ctc_shapes))
        is_default = Distribution._validate_args  # noqa: SLF001 (torch has only a way to set it)
        changes.enter_context(set_of(Distribution, "_validate_args", _Unvalidated(is_default)))
        yield


@contextmanager
def set_in(table: MutableMapping[Any, Any], key: Any, value: Any) -> Iterator[None]:
    """An entry of a table is another for a block."""
    was_there, before = key in table, table.get(key)
    table[key] = value
    try:
        yield
    finally:
        if was_there:
            table[key] = before
        else:
            del table[key]


@contextmanager
def set_of(owner: type, name: str, value: Any) -> Iterator[None]:
    """An attribute of a class is another for a block."""
    before = vars(owner).get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


_MISSING = object()


class _Unvalidated:
    """Whether distributions look at the values that they are given: not in the thread that made this."""

    def __init__(self, is_default: bool) -> None:
        self._is_default, self._thread = is_default, get_ident()

    def __get__(self, _distribution: object, _owner: type) -> bool:
        return self._is_default and get_ident() != self._thread


def _is_said_to_be_causal(_mask: object, is_causal: bool | None = None, _size: object = None) -> bool:
    """As torch's own, which goes on to look at the mask where nothing is said."""
    return is_causal is True


def _open_len(thing: Any, /) -> Any:
    return thing.shape[0] if isinstance(thing, Tensor) and thing.dim() else _len(thing)


def _ctc_shapes(*given: Any, **_: Any) -> tuple[Tensor, Tensor]:
    """Empty outputs for log probabilities [steps, samples, classes]: losses [samples], and alphas."""
    log_probs, targets = given[2:4]  # behind the mode and the operator
    steps, samples = log_probs.shape[:2]
    return log_probs.new_empty(samples), log_probs.new_empty(samples, steps, 2 * targets.shape[-1] + 1)
