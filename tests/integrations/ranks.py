"""Trainings by two processes, as torchrun would start them: forks of one that has imported the libraries."""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

RANKS = 2
_PATIENCE = 300.0
_CONTEXT = multiprocessing.get_context("fork")


def fingerprint(network: nn.Module) -> str:
    """Another one if one bit of the network is."""
    return hashlib.sha256(safetensors.torch.save(network.state_dict())).hexdigest()


class Launcher:
    """A process that has imported what it is to run, and nothing else, for use in a `with`.

    A fork of the process of all tests would hold what they have left behind, and lack the threads of it.
    """

    def __enter__(self) -> Self:
        spawning = multiprocessing.get_context("spawn")
        self._asking, theirs = spawning.Pipe()
        self._process = spawning.Process(target=_launch, args=(theirs,))
        self._process.start()
        theirs.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.close()
        self._process.join()

    def told_by_ranks(self, train: Callable[..., object], *given: object) -> list[Any]:
        """What each rank returns when it is called with these arguments; None of one that was killed."""
        self._asking.send((train, given))
        if not self._asking.poll(_PATIENCE):
            assert self._process.pid is not None
            os.killpg(self._process.pid, signal.SIGKILL)
            raise TimeoutError(f"{train.__name__} has not ended after {_PATIENCE} s")
        told: list[Any] = self._asking.recv()
        return told


def _launch(asked: Connection) -> None:
    os.setsid()
    with suppress(EOFError):  # nobody asks any more
        while True:
            train, given = asked.recv()
            asked.send(_told_by_ranks(train, given))


def _told_by_ranks(train: Callable[..., object], given: tuple[object, ...]) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(RANKS):
        here, there = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_rank, args=(rank, port, train, given, there), daemon=True)
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


def _rank(
    rank: int, port: int, train: Callable[..., object], given: tuple[object, ...], told: Connection
) -> None:
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
    told.send(train(*given))
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
    os._exit(0)  # what the parent has opened is not for this one to close
