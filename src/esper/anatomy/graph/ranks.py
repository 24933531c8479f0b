"""Several processes that train one network: all of them make a cut, or none does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.anatomy.graph.sharded import is_sharded
from esper.anatomy.graph.wrappers import bare, layers
from esper.errors import RankDivergence, SurgeryError
from esper.heap import derived_from, instances_of
from esper.wording import ranks

_TEXT_BYTES = 480
"""Of what a rank says to the others of a failure."""


def group_of(model: nn.Module) -> dist.ProcessGroup | None:
    """The processes that train this network together by `DistributedDataParallel`, or None."""
    wrappers = [layer for layer in layers(model) if isinstance(layer, DistributedDataParallel)]
    return wrappers[0].process_group if wrappers else None


def is_parallel(model: nn.Module) -> bool:
    """Whether more than one process trains this network."""
    group = group_of(model)
    return is_sharded(bare(model)) or (group is not None and dist.get_world_size(group) > 1)


def is_inside_parallel(model: nn.Module) -> bool:
    """Whether it is the inside of a `DistributedDataParallel` of several processes, given without that."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    if group_of(model) is not None:
        return False
    network = bare(model)
    wrappers = instances_of(*derived_from(DistributedDataParallel))
    return any(bare(wrapper) is network and is_parallel(wrapper) for wrapper in wrappers)


def shared_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that `DistributedDataParallel` keeps equal in all processes, by their names in it."""
    ignored: set[str] = set()
    for layer in layers(model):
        if isinstance(layer, DistributedDataParallel):
            ignored |= layer.parameters_to_ignore
    return {name: value for name, value in bare(model).named_parameters() if name not in ignored}


@contextmanager
def together(group: dist.ProcessGroup | None, what: bytes, device: torch.device) -> Iterator[None]:
    """Runs a block on every rank of a parallel network, or makes it fail on every rank.

    Args:
        group: the ranks; None is this process alone.
        what: what is about to be done; must be the same everywhere.
        device: where the ranks exchange a few bytes.

    Raises:
        RankDivergence: it is not; the block did not run.
        SurgeryError: the block was fine here, but failed on another rank.
    """
    if group is None:
        yield
        return
    digest = torch.frombuffer(bytearray(hashlib.sha256(what).digest()), dtype=torch.int64)
    digests = _from_all(group, digest.to(device))
    different = [rank for rank, other in enumerate(digests) if not torch.equal(other, digests[0])]
    if different:
        raise RankDivergence(
            f"{ranks(different)} would have made another cut than rank 0 (or cut a network of another "
            "structure). Nothing was changed. Let one rank decide and broadcast its mask to the others, for "
            "example with torch.distributed.broadcast."
        )
    try:
        yield
    except Exception as error:
        _from_all(group, _text(f"{type(error).__name__}: {error}", device))
        raise
    # All ranks meet here: one that failed has sent its reason instead.
    texts = [bytes(text.tolist()).rstrip(b"\0") for text in _from_all(group, _text("", device))]
    reasons = {rank: text.decode("utf-8", "replace") for rank, text in enumerate(texts) if text}
    if reasons:
        rank, reason = next(iter(reasons.items()))
        where = ranks([*reasons]).lower()
        raise SurgeryError(
            f"The cut failed on {where} and was undone on this one too. Rank {rank} says: {reason}"
        )


def _text(text: str, device: torch.device) -> Tensor:
    """The beginning of a text, in as many bytes as that of every other."""
    whole = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
    return torch.tensor([*whole], dtype=torch.uint8, device=device)


def _from_all(group: dist.ProcessGroup, mine: Tensor) -> list[Tensor]:
    """The values of all ranks, in their order."""
    values = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(values, mine, group=group)
    return [other.cpu() for other in values]
