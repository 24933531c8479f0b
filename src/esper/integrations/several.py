"""Several processes in a framework's training: who speaks and writes, and what cannot be followed."""

from __future__ import annotations

import torch.distributed as dist

from esper.errors import ConfigError

BY_HAND = (
    "Train by DistributedDataParallel where one process can hold the network; one in shards is cut by hand "
    "(docs/how-to-many-gpus.md)."
)
"""The way out where no process holds the whole network."""


def is_first_rank() -> bool:
    """Whether this process speaks, reads and writes: the only one, or rank 0 of several."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def refuse_way(trainer: str, way: str, way_out: str) -> None:
    """Raises unless `way` is empty: how several processes or cards train what cannot be followed.

    Raises:
        ConfigError: so they do.
    """
    if way:
        raise ConfigError(
            f"This {trainer} trains by {way}, and this callback follows one process, or several of which "
            f"each holds the whole network (DistributedDataParallel). Nothing was changed. {way_out}"
        )
