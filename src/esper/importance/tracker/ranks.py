"""What the processes of a parallel run have measured, gathered on every one of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from esper.errors import RankDivergence


def parts_of_all_ranks(part: Mapping[str, Tensor], structure: str) -> list[dict[str, Tensor]]:
    """The float32 tensors of `part` as every rank holds them, in the order of the ranks.

    Without a process group there is one rank.

    Args:
        part: Tensors of the same names and shapes on every rank.
        structure: What they are about; must be the same everywhere.

    Raises:
        RankDivergence: It is not.
    """
    if not dist.is_available() or not dist.is_initialized():
        return [dict(part)]
    device = next(iter(part.values())).device
    digest = torch.frombuffer(bytearray(hashlib.sha256(structure.encode()).digest()), dtype=torch.int64)
    digests = _gathered(digest.to(device))
    different = [rank for rank, other in enumerate(digests) if not torch.equal(other, digests[0])]
    if different:
        raise RankDivergence(
            f"Rank(s) {different} track a network of another structure than rank 0, so importance cannot be "
            "merged. Nothing was changed. Let all ranks make the same cuts."
        )
    flat = torch.cat([tensor.flatten() for tensor in part.values()])
    sizes = [tensor.numel() for tensor in part.values()]
    return [
        {name: piece.reshape(part[name].shape) for name, piece in zip(part, whole.split(sizes), strict=True)}
        for whole in _gathered(flat)
    ]


def _gathered(mine: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    return parts
