"""One rank of a parallel training run with a cut in it; started as a process of its own by the tests.

Usage: python -m tests.anatomy.ranks RANK PORT DIRECTORY; reports of all cases go to DIRECTORY/rank-RANK.json.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from esper.anatomy.cut import cut
from esper.anatomy.proof import Inputs
from esper.anatomy.units import inspect
from esper.arrays import BoolArray
from esper.errors import EsperError
from tests.anatomy.cutting import half

RANKS = 2


class Network(nn.Module):
    """A buffer, a convolution and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.hidden, self.head = nn.Linear(8, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.hidden(self.features(x).mean((2, 3)))))
        return out


def batches(rank: int) -> Callable[[], Tensor]:
    random = torch.Generator().manual_seed(rank)
    return lambda: torch.randn(6, 2, 6, 6, generator=random).double()


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Callable[[], Tensor], steps: int
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch()).square().mean().backward()
        optimizer.step()


def apart(model: nn.Module) -> float:
    """The largest difference between the parameters of the ranks; infinite if their sizes differ."""
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    sizes = [torch.empty(1, dtype=torch.int64) for _ in range(RANKS)]
    dist.all_gather(sizes, torch.tensor([mine.numel()]))
    if len({int(size) for size in sizes}) > 1:
        return float("inf")
    all_of_them = [torch.empty_like(mine) for _ in range(RANKS)]
    dist.all_gather(all_of_them, mine)
    return float((all_of_them[0] - all_of_them[1]).abs().max())


def parallel(**options: Any) -> tuple[DistributedDataParallel, AdamW]:
    model = DistributedDataParallel(Network().double(), **options)
    return model, AdamW(model.parameters(), 0.01)


def goes_on(rank: int, **options: Any) -> dict[str, Any]:
    """Trains, cuts, trains: ranks must stay one, and equal one process that sees all batches."""
    model, optimizer = parallel(**options)
    if options.get("find_unused_parameters"):
        model.register_comm_hook(None, default_hooks.allreduce_hook)
    batch = batches(rank)
    train(model, optimizer, batch, 2)
    x = batches(7)()
    anatomy = inspect(model, x)
    made = cut(model, anatomy, half(anatomy), Inputs((x,)), (optimizer,))
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, batch, 3)
    moved = sum(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    return {
        "apart": apart(model),
        "smaller": made.parameters_after < made.parameters_before,
        "moved": moved == len(before),
        "hooks": len(vars(model)["_comm_hooks"]),
    }


def averages_gradients(rank: int) -> dict[str, Any]:
    """One step after a cut is the step of one process on the batch of both ranks."""
    model, optimizer = parallel(forward_sync_buffers=False)
    alone = Network().double()
    twin = AdamW(alone.parameters(), 0.01)
    x = batches(7)()
    anatomy = inspect(model, x)
    for network, its_optimizer in ((model, optimizer), (alone, twin)):
        network.eval()
        cut(network, anatomy, half(anatomy), Inputs((x,)), (its_optimizer,))
    draws = [batches(number) for number in range(RANKS)]
    train(model, optimizer, draws[rank], 1)
    both = [batches(number) for number in range(RANKS)]
    train(alone, twin, lambda: torch.cat([draw() for draw in both]), 1)
    pairs = zip(model.parameters(), alone.parameters(), strict=True)
    return {"apart": apart(model), "error": max(float((a - b).abs().max().detach()) for a, b in pairs)}


def refused(rank: int, mask: Callable[[Any], BoolArray], probe: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """A cut that must not happen on either rank; training goes on after it."""
    model, optimizer = parallel()
    batch = batches(rank)
    train(model, optimizer, batch, 2)
    x = batches(7)()
    anatomy = inspect(model, x)
    before = [tensor.clone() for tensor in (*model.state_dict().values(),)]
    told = ""
    try:
        cut(model, anatomy, mask(anatomy), Inputs((probe(x),)), (optimizer,))
    except EsperError as error:
        told = f"{type(error).__name__}: {error}"
    same = all(map(torch.equal, before, model.state_dict().values()))
    train(model, optimizer, batch, 2)
    return {"told": told, "same": same, "apart": apart(model)}


def another_mask(rank: int) -> dict[str, Any]:
    return refused(rank, lambda anatomy: half(anatomy, seed=rank), lambda x: x)


def fails_on_one(rank: int) -> dict[str, Any]:
    """Rank 1 proves with inputs that hold no number."""
    return refused(rank, half, lambda x: x * float("nan") if rank else x)


def sharded() -> tuple[nn.Module, AdamW]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = Network().double()
    mesh = init_device_mesh("cpu", (RANKS,))
    fully_shard(model.hidden, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, AdamW(model.parameters(), 0.01)


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All values of a sharded network and its optimizer, put together."""
    values: list[Any] = [*model.parameters()]
    values += [v for state in optimizer.state.values() for v in state.values()]
    return [v.full_tensor().detach().clone() if hasattr(v, "full_tensor") else v.clone() for v in values]


def shards(rank: int) -> dict[str, Any]:
    """A sharded network trains, is cut and trains on, beside one process that sees all batches."""
    from torch.distributed.tensor import DTensor

    model, optimizer = sharded()
    alone = Network().double()
    twin = AdamW(alone.parameters(), 0.01)
    model.eval(), alone.eval()
    mine, both = batches(rank), [batches(number) for number in range(RANKS)]

    def step() -> None:
        train(model, optimizer, mine, 1)
        train(alone, twin, lambda: torch.cat([draw() for draw in both]), 1)

    step()
    x = batches(7)()
    anatomy, kind = inspect(model, x), type(model)
    same_anatomy = anatomy.digest == inspect(alone, x).digest
    heard: list[int] = []
    weight = model.get_parameter("hidden.weight")
    weight.register_post_accumulate_grad_hook(lambda parameter: heard.append(1))
    made = cut(model, anatomy, half(anatomy), Inputs((x,)), (optimizer,))
    cut(alone, anatomy, half(anatomy), Inputs((x,)), (twin,))
    kinds = [type(parameter).__name__ for parameter in model.parameters()]
    kinds += [type(state["exp_avg"]).__name__ for state in optimizer.state.values()]
    for _ in range(3):
        step()
    expected = whole_state(alone, twin)
    found = whole_state(model, optimizer)
    state_dict = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(model.state_dict())
    step()
    return {
        "same anatomy": same_anatomy,
        "same class": type(model) is kind,
        "smaller": made.parameters_after < made.parameters_before,
        "kinds": sorted(set(kinds)),
        "error": max(float((a - b).abs().max().detach()) for a, b in zip(found, expected, strict=True)),
        "shapes": state_dict == {name: tuple(value.shape) for name, value in alone.state_dict().items()},
        "local": sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
        < made.parameters_after,
        "hooks called": len(heard),
    }


def accumulates(rank: int) -> dict[str, Any]:
    """Gradients that wait in one process only would be lost; a look or a cut says so."""
    model, _ = sharded()
    model.set_requires_gradient_sync(False)  # type: ignore[operator]  # a method of FSDPModule
    model(batches(rank)()).square().mean().backward()
    try:
        inspect(model, batches(7)())
    except EsperError as error:
        return {"told": f"{type(error).__name__}: {error}"}
    return {"told": ""}


def shards_refused(
    rank: int, mask: Callable[[Any], BoolArray], probe: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """A cut of a sharded network that must not happen: every shard stays the object that it is."""
    model, optimizer = sharded()
    batch = batches(rank)
    train(model, optimizer, batch, 2)
    x = batches(7)()
    anatomy = inspect(model, x)
    objects, values = list(model.parameters()), whole_state(model, optimizer)
    told = ""
    try:
        cut(model, anatomy, mask(anatomy), Inputs((probe(x),)), (optimizer,))
    except EsperError as error:
        told = f"{type(error).__name__}: {error}"
    same = all(a is b for a, b in zip(objects, model.parameters(), strict=True))
    same = same and all(map(torch.equal, values, whole_state(model, optimizer)))
    same = same and list(optimizer.state) == optimizer.param_groups[0]["params"]
    train(model, optimizer, batch, 2)
    return {"told": told, "same": same}


def flattened(rank: int) -> dict[str, Any]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(Network(), device_id=torch.device("cpu"), use_orig_params=True)
    try:
        inspect(model, batches(7)().float())
    except EsperError as error:
        return {"told": f"{type(error).__name__}: {error}"}
    return {"told": ""}


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain": goes_on,
    "bucket views": lambda rank: goes_on(rank, gradient_as_bucket_view=True),
    "static graph": lambda rank: goes_on(rank, static_graph=True),
    "own group and hook": lambda rank: goes_on(
        rank, process_group=dist.new_group([0, 1]), find_unused_parameters=True
    ),
    "averages gradients": averages_gradients,
    "another mask": another_mask,
    "fails on one": fails_on_one,
    "shards": shards,
    "accumulates": accumulates,
    "flattened": flattened,
    "shards, another mask": lambda rank: shards_refused(rank, lambda a: half(a, seed=rank), lambda x: x),
    "shards, fails on one": lambda rank: shards_refused(
        rank, half, lambda x: x * float("nan") if rank else x
    ),
}


def main() -> None:
    rank, port, directory = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)
    reports = {case: run(rank) for case, run in CASES.items()}
    (directory / f"rank-{rank}.json").write_text(json.dumps(reports))
    dist.barrier()
    gc.collect()  # a wrapper that lives keeps gloo's threads, and those may abort while Python shuts down
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
