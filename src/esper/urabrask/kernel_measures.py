"""Measures a kernel as it is at birth, alone, in whatever process made it: no network is near."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from esper.leyline import Clock
from esper.urabrask.kernel_checks import KernelMeasures

_PASSES = 3
"""Passes that are timed; the shortest counts."""


@dataclass(frozen=True)
class Pass:
    """One pass of a kernel: its input before and after, its output, its gradients, and how long they took."""

    before: Tensor
    after: Tensor
    output: object
    gradients: tuple[Tensor | None, ...]
    forward_seconds: float
    backward_seconds: float | None


def size_of(module: nn.Module) -> int:
    """Bytes of parameters and buffers, each tensor once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in set(held_by(module)))


def held_by(module: nn.Module) -> Iterable[Tensor]:
    """Parameters and buffers."""
    yield from module.parameters()
    yield from module.buffers()


def measured_kernel(module: nn.Module, again: nn.Module, like: Tensor, clock: Clock) -> KernelMeasures:
    """What a kernel is like.

    Args:
        module: f, at birth.
        again: the same once more: what both hold was there before either was made.
        like: activations, [samples, ...].
        clock: monotonic seconds.
    """
    size, foreign = size_of(module), _shared(module, [*held_by(again), like])
    known = KernelMeasures(size_bytes=size, foreign=foreign)
    passes: list[Pass] = []
    for training in (False, True):
        module.train(training)
        passes.append(_pass(module, like, clock))
    misfits = max(_misfits(one.output, like) for one in passes)
    touched = sum(int((one.before != one.after).sum()) for one in passes)
    known = replace(known, misfits=misfits, touched=touched)
    if misfits:
        return known
    outputs = [one.output for one in passes if isinstance(one.output, Tensor)]
    gradients = [gradient for gradient in passes[-1].gradients if gradient is not None]
    known = replace(
        known,
        changed=sum(int((like + output != like).sum()) for output in outputs),
        not_finite=sum(_no_numbers(output) for output in outputs),
        bad_gradients=sum(map(_no_numbers, gradients)) if gradients else None,
    )
    del passes, outputs, gradients
    left_behind = _left_behind(lambda: _pass(module, like, clock))
    timed = [_pass(module, like, clock) for _ in range(_PASSES)]
    backward = [one.backward_seconds for one in timed if one.backward_seconds is not None]
    return replace(
        known,
        left_behind=left_behind,
        forward_seconds=min(one.forward_seconds for one in timed),
        backward_seconds=min(backward, default=None),
    )


def _pass(module: nn.Module, like: Tensor, clock: Clock) -> Pass:
    """One pass with its gradient, which nothing keeps."""
    given = like.clone()
    parameters = [p for p in module.parameters() if p.requires_grad]
    with torch.enable_grad():
        begun = clock()
        output = module(given)
        forward = _waited(clock, output) - begun
        gradients: tuple[Tensor | None, ...] = ()
        backward = None
        if parameters and isinstance(output, Tensor) and output.requires_grad:
            begun = clock()
            gradients = torch.autograd.grad(output.float().sum(), parameters, allow_unused=True)
            backward = _waited(clock, gradients) - begun
    kept = output.detach() if isinstance(output, Tensor) else output
    return Pass(like, given, kept, gradients, forward, backward)


def _waited(clock: Clock, made: object) -> float:
    """The time when a device has done what it was told."""
    if any(isinstance(one, Tensor) and one.is_cuda for one in (made if isinstance(made, tuple) else (made,))):
        torch.cuda.synchronize()
    return clock()


def _misfits(output: object, like: Tensor) -> int:
    if not isinstance(output, Tensor):
        return 3
    pairs = zip(
        (output.shape, output.dtype, output.device), (like.shape, like.dtype, like.device), strict=True
    )
    return sum(one != other for one, other in pairs)


def _no_numbers(tensor: Tensor) -> int:
    return int((~tensor.isfinite()).sum())


def _shared(module: nn.Module, others: Iterable[Tensor]) -> int:
    """Tensors of a module whose memory is that of others too."""
    places = {tensor.untyped_storage().data_ptr() for tensor in others if tensor.numel()}
    return sum(t.untyped_storage().data_ptr() in places for t in set(held_by(module)) if t.numel())


class _Births(TorchDispatchMode):
    """Remembers the tensors that are made inside, without keeping them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._born: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = {id(one) for one in tree_leaves((args, kwargs))}
        new = (one for one in tree_leaves(made) if isinstance(one, Tensor) and id(one) not in given)
        self._born += map(weakref.ref, new)
        return made

    def living(self) -> int:
        """How many are still there."""
        if any(born() is not None for born in self._born):
            gc.collect()  # they may only hold each other
        return sum(born() is not None for born in self._born)


def _left_behind(run: Callable[[], object]) -> int:
    """Tensors of two runs that are still there after a third one, which replaces what is a state."""
    births = _Births()
    with births:
        run()
        run()
    run()
    return births.living()
