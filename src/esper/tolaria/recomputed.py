"""Activations that are computed again in the backward pass, instead of being kept for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from esper.anatomy.graph import bare, is_compiled
from esper.errors import ConfigError


class Recomputed:
    """Forward passes inside of it keep only what goes from one segment of a network to the next.

        recomputed = Recomputed(model, segments=4)
        with recomputed:
            output = model(x)

    The backward pass, inside or outside, computes a segment again when it comes to it: the gradients are the
    same, and so are what torch draws and running statistics, for the price of most of a forward pass. The
    last segment is kept as ever, because it would be needed at once. Network, names and `state_dict` stay
    what they are, and so does the forward pass outside of it. Blocks are looked up anew each time, so that
    cuts and seeds are followed.

    Blocks are those of the outermost `nn.Sequential`s, and of `nn.ModuleList`s of modules with parts of their
    own. What happens between the blocks of a list is the network's own code: each is a segment of its own.

    Args:
        model: the network; what is around it (`DistributedDataParallel`) may stay.
        segments: into how many all blocks together are divided, 2 or more.

    Raises:
        ConfigError: the network has no blocks in a row, or is compiled around them.
    """

    def __init__(self, model: nn.Module, segments: int = 4) -> None:
        name = type(bare(model)).__name__
        if segments < 2:
            raise ConfigError(f"segments is {segments}; expected 2 or more.")
        if isinstance(model, nn.DataParallel):
            raise ConfigError(
                f"DataParallel copies {name} in each pass, and copies would compute with its own blocks. "
                "Nothing was changed. Use DistributedDataParallel."
            )
        found = _segments_of(bare(model), segments)
        if compiled := [type(m).__name__ for m in (model, *(part.owner for part in found)) if is_compiled(m)]:
            raise ConfigError(
                f"{compiled[0]} is compiled, and what is computed again in it is up to the compiler. Nothing "
                "was changed. Set torch._functorch.config.activation_memory_budget, or compile nothing but "
                "the modules in an nn.Sequential."
            )
        if len(found) < 2:
            raise ConfigError(
                f"{name} has no two blocks in a row that could be computed again: no nn.Sequential, and no "
                "nn.ModuleList of modules with parts of their own. Nothing was changed. Put its blocks into "
                "one, or let its forward pass call torch.utils.checkpoint.checkpoint(use_reentrant=False)."
            )
        self._model, self._count = model, segments
        self._undo = ExitStack()

    def __enter__(self) -> None:
        with ExitStack() as stack:
            again: dict[nn.Module, list[_Segment]] = {}
            for segment in _segments_of(bare(self._model), self._count)[:-1]:  # a cut may have left one only
                again.setdefault(segment.owner, []).append(segment)
            for owner, segments in again.items():
                stack.enter_context(_forwarding(owner, segments))
            self._undo = stack.pop_all()

    def __exit__(self, *_: object) -> None:
        self._undo.close()


@dataclass(frozen=True)
class _Segment:
    """Blocks that are computed again together.

    Attributes:
        owner: the module whose forward pass they are a part of, or the whole.
        blocks: one after the other.
    """

    owner: nn.Module
    blocks: tuple[nn.Module, ...]


def _segments_of(network: nn.Module, count: int) -> list[_Segment]:
    """All blocks of a network in so many segments, and in more where a row of blocks ends."""
    blocks = [(row, block) for row in _rows(network) for block in _blocks(row)]
    segments: list[_Segment] = []
    begun = 0
    for number, (row, block) in enumerate(blocks):
        due = number * count // len(blocks)
        # What changes its input in place must not get the one that a segment is computed again from.
        joins = due == begun or getattr(block, "inplace", False)
        if isinstance(row, nn.ModuleList):
            segments.append(_Segment(block, (block,)))
        elif joins and segments and segments[-1].owner is row:
            segments[-1] = _Segment(row, (*segments[-1].blocks, block))
        else:
            segments.append(_Segment(row, (block,)))
            begun = due
    return segments


def _rows(network: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules whose parts are blocks. A seed that is no part of the network yet has none."""
    inside: list[str] = []
    for name, module in network.named_modules():
        if any(name.startswith(outer) for outer in inside):
            continue
        if _is_row(module):
            inside.append(f"{name}." if name else "")
            yield module


def _is_row(module: nn.Module) -> bool:
    if isinstance(module, nn.ModuleList):
        return len(module) > 0 and all([*block.children()] for block in module)
    return _goes_through(module) and len(_blocks(module)) > 1 and not _is_shell(_blocks(module))


def _is_shell(blocks: Sequence[nn.Module]) -> bool:
    """Whether one of the blocks, with rows of its own, is more than half of all."""
    sizes = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks]
    largest = max(range(len(blocks)), key=sizes.__getitem__)
    return 2 * sizes[largest] > sum(sizes) and any(True for _ in _rows(blocks[largest]))


def _goes_through(module: nn.Module) -> bool:
    """Whether a module is nothing else than its parts one after the other."""
    is_its_own = type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
    return isinstance(module, nn.Sequential) and is_its_own


def _blocks(row: nn.Module) -> list[nn.Module]:
    """The blocks of a row, those of rows in it among them."""
    if isinstance(row, nn.ModuleList):
        return list(row)
    found: list[nn.Module] = []
    for part in row._modules.values():  # noqa: SLF001 (`children` leaves out what comes twice)
        if part is not None:
            found += _blocks(part) if _goes_through(part) and not _has_hooks(part) else [part]
    return found


def _has_hooks(module: nn.Module) -> bool:
    """Whether something happens where a module is called, beside its forward pass."""
    names = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, name) for name in names)


@contextmanager
def _forwarding(owner: nn.Module, segments: Sequence[_Segment]) -> Iterator[None]:
    """A module computes these segments again, all others of its own as ever."""
    plain, set_by_others = owner.forward, vars(owner).get("forward")
    kept = _blocks(owner)[sum(len(segment.blocks) for segment in segments) :] if _goes_through(owner) else []

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return plain(*args, **kwargs)
        if segments[0].blocks == (owner,):
            return _again(plain, segments[0], *args, **kwargs)
        (value,) = (*args, *kwargs.values())
        for segment in segments:
            value = _again(partial(_through, segment.blocks), segment, value)
        return _through(kept, value)

    owner.forward = forward
    try:
        yield
    finally:
        del owner.forward
        if set_by_others is not None:
            owner.forward = set_by_others


def _through(blocks: Sequence[nn.Module], value: Any) -> Any:
    for block in blocks:
        value = block(value)
    return value


def _again(run: Callable[..., Any], segment: _Segment, *args: Any, **kwargs: Any) -> Any:
    """Runs a segment, whose activations are not kept."""
    buffers = _Buffers(segment.blocks)
    return checkpoint(
        partial(run, **kwargs), *args, use_reentrant=False, context_fn=lambda: (buffers.first(), buffers)
    )


class _Buffers:
    """What a segment changes while it computes: running statistics, vectors of a spectral norm, counts.

    Inside of it the segment has what it had before its first pass, and afterwards what it had when this
    began, so that a second pass computes the same and leaves nothing behind.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._modules = [module for block in blocks for module in _all(block) if module._buffers]  # noqa: SLF001
        self._before: dict[nn.Module, dict[str, Tensor]] = {}
        self._now: list[dict[nn.Module, dict[str, Tensor | None]]] = []

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first pass: afterwards it is known what it has changed, and what that was before."""
        held = {module: _held(module) for module in self._modules}
        copies = {module: _copies(module) for module in held}
        yield
        # As a whole, because torch counts no change of the running statistics, and one of their number.
        self._before = {module: copies[module] for module in held if _held(module) != held[module]}

    def __enter__(self) -> None:
        self._now.append({module: dict(module._buffers) for module in self._before})  # noqa: SLF001
        for module, buffers in self._before.items():
            # Others in their place: the graph may have saved these.
            module._buffers.update({name: tensor.clone() for name, tensor in buffers.items()})  # noqa: SLF001

    def __exit__(self, *_: object) -> None:
        for module, buffers in self._now.pop().items():
            module._buffers.update(buffers)  # noqa: SLF001


def _held(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Which buffers a module has, and how often each was changed."""
    return {n: (id(t), t._version) for n, t in module._buffers.items() if t is not None}  # noqa: SLF001


def _copies(module: nn.Module) -> dict[str, Tensor]:
    return {n: t.detach().clone() for n, t in module._buffers.items() if t is not None}  # noqa: SLF001


def _all(module: nn.Module) -> Iterator[nn.Module]:
    """A module and all in it, also a seed, which is in no list of its modules."""
    yield module
    for part in module._modules.values():  # noqa: SLF001
        if part is not None:
            yield from _all(part)
