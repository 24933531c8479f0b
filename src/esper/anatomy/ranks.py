"""Several processes that train one network: all of them make a cut, or none does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from esper.anatomy.wrappers import layers
from esper.errors import RankDivergence, SurgeryError


def number_of_ranks(model: nn.Module) -> int:
    """How many processes train this network."""
    wrapper = _parallel(model)
    return 1 if wrapper is None else dist.get_world_size(wrapper.process_group)


def _parallel(model: nn.Module) -> DistributedDataParallel | None:
    return next((layer for layer in layers(model) if isinstance(layer, DistributedDataParallel)), None)


@contextmanager
def together(model: nn.Module, what: bytes) -> Iterator[None]:
    """Runs a block on every rank of a parallel network, or makes it fail on every rank.

    A network that is not wrapped in `DistributedDataParallel` is a matter of this process alone.

    Args:
        model: the network with its wrappers.
        what: what is about to be done; must be the same everywhere.

    Raises:
        RankDivergence: it is not; the block did not run.
        SurgeryError: the block was fine here, but failed on another rank.
    """
    wrapper = _parallel(model)
    if wrapper is None:
        yield
        return
    digest = torch.frombuffer(bytearray(hashlib.sha256(what).digest()), dtype=torch.int64)
    digests = _from_all(wrapper, digest)
    different = [rank for rank, other in enumerate(digests) if not torch.equal(other, digests[0])]
    if different:
        raise RankDivergence(
            f"Rank(s) {different} were about to make another cut than rank 0 (or to cut a network of another "
            "structure). Nothing was changed. Let one rank decide and broadcast its mask to the others, for "
            "example with torch.distributed.broadcast."
        )
    try:
        yield
    except Exception:
        _from_all(wrapper, torch.zeros(1, dtype=torch.int64))
        raise
    made_it = _from_all(wrapper, torch.ones(1, dtype=torch.int64))
    failed = [rank for rank, flag in enumerate(made_it) if not flag]
    if failed:
        raise SurgeryError(
            f"The cut failed on rank(s) {failed}, and was undone on this one too: what they raised says why."
        )


def _from_all(wrapper: DistributedDataParallel, value: Tensor) -> list[Tensor]:
    """The values of all ranks, in their order."""
    mine = value.to(next(wrapper.parameters()).device)
    values = [torch.empty_like(mine) for _ in range(dist.get_world_size(wrapper.process_group))]
    dist.all_gather(values, mine, group=wrapper.process_group)
    return [other.cpu() for other in values]
