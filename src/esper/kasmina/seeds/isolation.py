"""Isolation: a seed learns in passes of its own that leave nothing behind in the host, and that is checked.

What is closed: gradients (nothing of the host requires one while a seed's pass runs), random numbers (drawn
from the seed's own number), buffers such as running statistics (copies take their place), the scale of mixed
precision and the norm for clipping (`owners`), and what is no number (`layer`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Update = tuple[Tensor, ...]
"""What a step would do to the host: its loss, and the gradient of every parameter."""


@contextmanager
def at_rest(model: nn.Module, apart: Iterable[nn.Module] = (), *, freeze: bool = True) -> Iterator[None]:
    """Lets a pass run through the network that changes nothing in it, except in the modules `apart`.

    Args:
        model: the network.
        apart: modules whose own parameters learn and whose own buffers are written.
        freeze: whether parameters take part without requiring gradients.
    """
    learning = set(apart)
    resting = [module for module in all_modules(model) if module not in learning]
    parameters = {p for module in resting for p in module.parameters(recurse=False) if p.requires_grad}
    # A copy in the buffer's place, instead of writing back: autograd counts writes to what it has saved.
    places = [(module, *pair) for module in resting for pair in _buffers(module)]
    copies: dict[Tensor, Tensor] = {}
    for module, name, buffer in places:
        setattr(module, name, copies.setdefault(buffer, buffer.detach().clone()))
    for parameter in parameters if freeze else ():
        parameter.requires_grad_(False)
    try:
        with _uncached(), _as_written():
            yield
    finally:
        for parameter in parameters if freeze else ():
            parameter.requires_grad_(True)
        for module, name, buffer in places:
            setattr(module, name, buffer)


def all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every module of a network once, those of seeds included that it does not list."""
    seen: set[nn.Module] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            yield module
            waiting += module.children()


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return module.named_buffers(recurse=False, remove_duplicate=False)


@contextmanager
def _as_written() -> Iterator[None]:
    """Passes that training does not make are computed as they are written: nothing is compiled for them.

    Each would be another program to a compiler: other modes, other batches, weights that rest.
    """
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled, and the import takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def _uncached() -> Iterator[None]:
    """The same mixed precision as outside, without the host's weights that were cast there."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    with torch.autocast(
        kinds[0] if kinds else "cpu",
        torch.get_autocast_dtype(kinds[0]) if kinds else None,
        enabled=bool(kinds),
        cache_enabled=False,
    ):
        yield


def leaves_behind(*tensors: Tensor) -> set[Tensor]:
    """The tensors that the graph behind these would give a gradient to."""
    seen, waiting, leaves = set(), [tensor.grad_fn for tensor in tensors], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            leaves.add(leaf)
        waiting += [before for before, _ in node.next_functions]
    return leaves


class GradientIsolationMonitor:
    """Watches that no seed reaches the host: by structure at changes of stage, bit by bit on sampled steps.

    Attributes:
        violations: of every seed, by its slot.
        checks: how often it has looked.
    """

    def __init__(self) -> None:
        self.violations: dict[str, int] = {}
        self.checks = 0

    def check_structure(self, path: str, outputs: Iterable[Tensor], own: set[Tensor]) -> bool:
        """Whether a seed's output and its loss lead to no parameter but its `own`."""
        return self._count(path, leaves_behind(*outputs) <= own)

    def check_update(self, path: str, present: Callable[[], Update], absent: Callable[[], Update]) -> bool:
        """Whether the host's update is, bit for bit, the one without the seed.

        Where two updates without it differ (kernels that add up in any order), this says nothing.
        """
        wanted = absent()
        is_same = same(present(), wanted) or not same(absent(), wanted)
        return self._count(path, is_same)

    def check_untouched(self, path: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
        """Whether a pass of the seed has left all of the host as it was: copies against live tensors."""
        is_same = before.keys() == after.keys() and same(before.values(), after.values())
        return self._count(path, is_same)

    def hear(self, path: str) -> None:
        """Counts a violation that was seen in another process."""
        self.violations[path] = self.violations.get(path, 0) + 1

    def forget(self, path: str) -> None:
        self.violations.pop(path, None)

    def _count(self, path: str, is_isolated: bool) -> bool:
        self.checks += 1
        if not is_isolated:
            self.hear(path)
        return is_isolated


def same(ones: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    """Whether two rows of tensors are equal bit for bit, where nan equals nan."""
    return all(torch.equal(*map(_comparable, pair)) for pair in zip(ones, others, strict=True))


def _comparable(tensor: Tensor) -> Tensor:
    """Its bits as whole numbers: nan equals nan, and 0.0 is not -0.0."""
    if not tensor.is_floating_point() or tensor.is_sparse:
        return tensor
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.detach().contiguous().view(whole)
