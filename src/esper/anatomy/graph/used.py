"""Whether a training loop computes with tensors that it keeps, told by watching them for a while.

Weights that are only kept (the best ones) are loaded some day, and may have any shape until then. Weights
that a loop computes with (a penalty on the distance from where it began, an average that is a new dict in
each step) fail it where the network is cut and they are not. The numbers look alike; what is done with them
does not.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Watch:
    """Sees whether tensors are computed with together with others; as values they stay what they are.

    Until it ends, or one of them is used, they are of a class of their own, whose operations are seen. What
    is computed from them alone counts as they do.

    Args:
        tensors: of no class of their own.

    Attributes:
        is_used: whether one of them was.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.is_used = False
        self._watched: list[weakref.ref[Tensor]] = []
        for tensor in tensors:
            self.follow(tensor)

    def follow(self, tensor: Tensor) -> None:
        """Watches one more."""
        if type(tensor) is Tensor:
            tensor.__class__ = _Watched
            vars(tensor)["_watch"] = self
            self._watched.append(weakref.ref(tensor))

    def end(self) -> None:
        """Lets all of them go."""
        for tensor in [ref() for ref in self._watched]:
            _release(tensor)
        self._watched.clear()

    def used(self) -> None:
        """One of them was: there is nothing left to see."""
        self.is_used = True
        self.end()


class _Watched(Tensor):
    """A tensor that tells what it is computed with."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        is_by_class = func in _BY_CLASS
        given = list(_tensors(args[:1] if is_by_class else (args, kwargs or {})))
        watches = {id(watch): watch for one in given if (watch := _watch_of(one)) is not None}
        if any(type(one) is not _Watched and one.dim() for one in given) and not _loads(func, args):
            for watch in watches.values():
                watch.used()
        if is_by_class:
            for one in given:
                _release(one)
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  torch's guide to extending it says so
            made = func(*args, **(kwargs or {}))
        known = {id(one) for one in given}  # what was written into stays what it is
        fresh = [] if is_by_class else [one for one in _tensors(made) if id(one) not in known]
        for watch in watches.values():
            if not watch.is_used:
                for one in fresh:
                    watch.follow(one)
        return made


_BY_CLASS = (Tensor.__deepcopy__, Tensor.__reduce_ex__, Tensor.__repr__)
"""What makes something of its first argument's class, to be copied, stored or read: that is to be torch's."""


def _loads(func: Callable[..., Any], args: Sequence[Any]) -> bool:
    """Whether they only go into another tensor, as `load_state_dict` puts them into a parameter."""
    return func is Tensor.copy_ and type(args[0]) is not _Watched


def _watch_of(tensor: Tensor) -> Watch | None:
    return vars(tensor).get("_watch") if type(tensor) is _Watched else None


def _release(tensor: Tensor | None) -> None:
    if type(tensor) is _Watched:
        vars(tensor).pop("_watch", None)
        # `load_state_dict(..., assign=True)` may have made it a parameter, as one of a foreign class is made.
        kind: Any = nn.Parameter if vars(tensor).pop("_is_param", False) else Tensor
        tensor.__class__ = kind


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of arguments or results, in whatever lists, tuples and dicts they are."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
