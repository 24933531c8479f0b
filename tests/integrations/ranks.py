"""Trainings by two processes, forks of this one, as torchrun would start them."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

RANKS = 2
_CONTEXT = multiprocessing.get_context("fork")


def fingerprint(network: nn.Module) -> str:
    """Another one if one bit of the network is."""
    return hashlib.sha256(safetensors.torch.save(network.state_dict())).hexdigest()


def told_by_ranks(train: Callable[[], object]) -> list[Any]:
    """What each rank returns; None of one that was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(RANKS):
        here, there = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_rank, args=(rank, port, train, there), daemon=True)
        process.start()
        there.close()
        running.append((process, here))
    told = []
    for process, here in running:
        try:
            told.append(here.recv())
        except EOFError:
            told.append(None)
        process.join()
    return told


def _rank(rank: int, port: int, train: Callable[[], object], told: Connection) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "one",
    }
    told.send(train())
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
    os._exit(0)  # what the parent has opened is not for this one to close
