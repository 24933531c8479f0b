"""Four ranks that save and load sharded state together; each runs all cases in turn and tells its reports."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.references import CheckpointRef
from esper.checkpoint.sharded import load_sharded, save_sharded
from esper.checkpoint.storage import POSIX, PosixStorage
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError
from tests.checkpoint.runs import OTHER_RING, debris, flip, names, open_store

RANKS = 4
PAIR = (0, 1)


class Network:
    """An FSDP2 network that was trained a little, from a seed; its rows do not divide evenly."""

    def __init__(self, group: dist.ProcessGroup, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5))
        fully_shard(self.model, mesh=DeviceMesh.from_group(group, "cpu"))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.1 * seed)
        self.model(torch.randn(3, 6)).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "told": {"epoch": 3, "names": ["a", None, 0.5]}}

    def whole(self) -> dict[str, torch.Tensor]:
        """Every value of every rank."""
        tensors = dict(self.model.named_parameters())
        for name, parameter in self.model.named_parameters():
            tensors |= {f"{name} {key}": value for key, value in self.optimizer.state[parameter].items()}
        return {name: full(tensor.detach()).clone() for name, tensor in tensors.items()}


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@contextmanager
def stored(run: Path, *, encrypt_weights: bool = False) -> Iterator[CheckpointStore | None]:
    """The store, on the first rank."""
    if dist.get_rank():
        yield None
        return
    with open_store(run, encrypt_weights=encrypt_weights) as store:
        yield store


def newest(store: CheckpointStore | None) -> CheckpointRef | None:
    return None if store is None else store.latest()


def told_by(work: Callable[[], object]) -> str:
    try:
        work()
    except CheckpointError as error:
        return str(error)
    return ""


def resharded(run: Path, everyone: dist.ProcessGroup, pair: dist.ProcessGroup) -> dict[str, Any]:
    """Four save, two load, the two save, four load: the network stays what it is."""
    report: dict[str, Any] = {}
    trained = Network(everyone, 1)
    before = trained.whole()
    with stored(run) as store:
        report["saved"] = save_sharded(store, 1, 0, trained.state(), group=everyone).name
        report["files"] = names(run / "checkpoints" / "step-000000001")
        if dist.get_rank() in PAIR:
            other = Network(pair, 2)
            report["differs"] = not equal(other.whole(), before)
            state = {**other.state(), "told": {"epoch": 0, "names": [1, 1, 1]}}
            load_sharded(newest(store), state, group=pair)
            set_state_dict(
                other.model,
                other.optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
            )
            report["told"] = state["told"]
            report["rate"] = other.optimizer.param_groups[0]["lr"]
            report["by two"] = equal(other.whole(), before)
            save_sharded(store, 2, 0, other.state(), group=pair)
        dist.barrier()
        last = Network(everyone, 3)
        state = last.state()
        load_sharded(newest(store), state)
        found = newest(store)
        report["step"] = None if found is None else found.step
        report["by four"] = equal(last.whole(), before)
    return report


def encrypted(run: Path, everyone: dist.ProcessGroup, pair: dist.ProcessGroup) -> dict[str, Any]:
    """Four save encrypted, two load; then their ring holds another key."""
    report: dict[str, Any] = {}
    trained = Network(everyone, 1)
    with stored(run, encrypt_weights=True) as store:
        saved = save_sharded(store, 7, 0, trained.state(), group=everyone)
        checkpoint = newest(store)
        told = told_by(lambda: load_sharded(_by_another_ring(checkpoint), trained.state()))
        report = {"saved": str(saved), "told": told}
        if dist.get_rank() in PAIR:
            other = Network(pair, 2)
            state = other.state()
            load_sharded(checkpoint, state, group=pair)
            report["loaded"] = full(state["model"]["0.weight"]).tolist()
        report["trained"] = full(trained.state()["model"]["0.weight"]).tolist()
        if store is not None:
            store.withdraw_after(store.catalog.at(2))
        dist.barrier()
    return report


def _by_another_ring(checkpoint: CheckpointRef | None) -> CheckpointRef | None:
    return None if checkpoint is None else replace(checkpoint, ring=OTHER_RING)


def fails_on_one(run: Path, everyone: dist.ProcessGroup, pair: dist.ProcessGroup) -> dict[str, Any]:
    """The disk of one rank fails at each of its calls; then nothing is new, and all are told why."""
    told = []
    state = {"w": torch.ones(3), **Network(everyone, 1).state()}
    with stored(run) as store:
        for number in (1, 2, 3):
            storage = FaultyStorage(number) if dist.get_rank() == 2 else POSIX
            told.append(told_by(partial(save_sharded, store, 9, 0, state, storage=storage)))
        storage = FaultyStorage(4) if dist.get_rank() == 0 else POSIX  # at the plan, when all have written
        plan = told_by(partial(save_sharded, store, 9, 0, state, storage=storage))
        left = debris(run) if store is not None else []
        found = newest(store)
        dist.barrier()
    return {"told": told, "plan": plan, "debris": left, "step": None if found is None else found.step}


def damaged(run: Path, everyone: dist.ProcessGroup, pair: dist.ProcessGroup) -> dict[str, Any]:
    """A bit of the file of one rank is flipped: no rank changes anything."""
    network = Network(everyone, 4)
    before, state = network.whole(), network.state()
    with stored(run) as store:
        checkpoint = newest(store)
        _flip_last(checkpoint)
        dist.barrier()
        told = told_by(lambda: load_sharded(checkpoint, state))
        unchanged = equal(network.whole(), before) and state["told"]["epoch"] == 3
        _flip_last(checkpoint)
        dist.barrier()
    return {"told": told, "unchanged": unchanged}


def _flip_last(checkpoint: CheckpointRef | None) -> None:
    if checkpoint is not None:
        path = checkpoint.path / "rank-00001.safetensors"
        flip(path, path.stat().st_size - 1)


def refused(run: Path, everyone: dist.ProcessGroup, pair: dist.ProcessGroup) -> dict[str, Any]:
    """What cannot be done is refused on all ranks, with the reason."""
    told: dict[str, str] = {}
    with stored(run) as store:
        told["taken"] = told_by(lambda: save_sharded(store, 1, 0, {"w": torch.ones(2)}))
        told["function"] = told_by(lambda: save_sharded(store, 5, 0, {"f": print}))
        told["array"] = told_by(lambda: save_sharded(store, 5, 0, {"f": torch.ones(2).numpy()}))
        told["no store"] = told_by(lambda: save_sharded(None, 5, 0, {"w": torch.ones(2)}))
        told["no checkpoint"] = told_by(lambda: load_sharded(None, {}))
        told["unknown"] = told_by(lambda: load_sharded(newest(store), {"unknown": torch.ones(2)}))
        told["shape"] = told_by(lambda: load_sharded(newest(store), {"model": {"0.bias": torch.ones(3)}}))
        plain = store.save(6, 0, {"a": b"1"}) if store is not None else None
        told["plain"] = told_by(lambda: load_sharded(plain, {}))
        if store is not None:
            store.withdraw_after(store.catalog.at(2))
        dist.barrier()
    return told


class Deadly(PosixStorage):
    """Its process is killed when it would sync."""

    def sync(self, descriptor: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def dies(run: Path, everyone: dist.ProcessGroup, pair: dist.ProcessGroup) -> dict[str, Any]:
    """One rank is killed while it writes."""
    storage = Deadly() if dist.get_rank() == 3 else POSIX
    state = {"w": torch.ones(3), **Network(everyone, 1).state()}
    with stored(run) as store:
        told = told_by(lambda: save_sharded(store, 8, 0, state, storage=storage))
    return {"told": told}


CASES = (resharded, encrypted, fails_on_one, damaged, refused, dies)


def rank(number: int, run: Path, told: Connection) -> None:
    """Runs all cases as one of the ranks."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{run.parent / 'meeting'}",
        rank=number,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    everyone, pair = dist.new_group(list(range(RANKS))), dist.new_group(list(PAIR))
    for case in CASES:
        told.send((case.__name__, case(run, everyone, pair)))
    told.close()
    os._exit(0)  # the group is broken by now: one has died in it
