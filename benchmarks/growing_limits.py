"""Every latency and throughput that the specification of growing asks for, beside what is measured here.

    python benchmarks/growing_limits.py      # about two minutes on one core
    python benchmarks/growing_limits.py --rounds 3

Two networks: a convolutional one with batch norm, and a transformer of eight layers, a seed on each. Times
are the median of rounds, of the processor where nothing waits, of the clock where something does. A row whose
mechanism is another one than the specification's says what was measured instead.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import esper
from esper.checkpoint import BackgroundSaver, CheckpointStore, capture_trainer, open_key_ring
from esper.leyline import Breaker, BreakerEvent
from esper.leyline.wire import BelievedKeys, Opener, Signer, messages, parsed
from esper.narset import Region
from esper.nissa import ListSink
from esper.tolaria import Recomputed
from growing import LENIENT, Run, network

KEYS = BelievedKeys("k-0123456789ab", {"k-0123456789ab": bytes(range(32))})
BOOT = b"0123456789abcdef"
LAYERS, FEATURES, WORDS, SAMPLES = 8, 128, 32, 16
SEGMENTS = 4
Batch = tuple[Tensor, Tensor]
Work = Callable[[], object]


class Table:
    """Rows: what, how much the specification allows or asks, what was measured, whether it is enough."""

    def __init__(self) -> None:
        print("| what | asked | measured | |\n|---|---|---|---|")

    def row(self, what: str, asked: str, measured: str, is_met: bool | None) -> None:
        verdict = {True: "met", False: "**missed**", None: ""}[is_met]
        print(f"| {what} | {asked} | {measured} | {verdict} |", flush=True)

    def at_most(self, what: str, limit_ms: float, ms: float) -> None:
        self.row(what, f"< {limit_ms:g} ms", f"{ms:.3g} ms", ms < limit_ms)

    def at_least(self, what: str, per_second: float, found: float) -> None:
        self.row(what, f"> {per_second:,.0f} /s", f"{found:,.0f} /s", found > per_second)


def timed(work: Work, rounds: int, calls: int = 1, clock: Callable[[], float] = time.process_time) -> float:
    """Milliseconds of one call: the median of rounds, the first one not counted."""
    found = []
    for _ in range(rounds + 1):
        begun = clock()
        for _ in range(calls):
            work()
        found.append((clock() - begun) / calls * 1e3)
    return median(found[1:])


class Words(nn.Module):
    """Eight transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(FEATURES, 4, 4 * FEATURES, 0.1, "gelu", batch_first=True)
                for _ in range(LAYERS)
            )
        )
        self.head = nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.head(self.layers(x).mean(1))
        return answer


def grown(model: nn.Module, batch: Batch, place: str, kind: str, every: int = 10**6) -> esper.Growth:
    """A seed that learns, in a network that has made three steps with it."""
    settings = {**LENIENT, "train_steps": 10**6, "check_every": every}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    growth = esper.Growth(
        model, optimizer, loss=F.cross_entropy, probe=[batch], settings=settings, sink=ListSink()
    )
    growth.germinate(place, kind)
    for _ in range(3):
        step(growth, batch)
    return growth


def step(growth: esper.Growth, batch: Batch) -> None:
    x, y = batch
    growth.optimizer.zero_grad()
    growth.loss(growth.model(x), y, x).backward()
    growth.optimizer.step()


def isolation(table: Table, rounds: int) -> None:
    torch.manual_seed(0)
    run = Run(network)
    words = (torch.randn(SAMPLES, WORDS, FEATURES), torch.arange(SAMPLES) % 10)
    rates = []
    for name, make, batch, place, kind in (
        ("convolutions", lambda: network(16), (run.x[:32], run.y[:32]), "2", "conv"),
        (f"transformer of {LAYERS} layers", Words, words, "layers.3", "mlp"),
    ):
        growth = grown(make(), batch, place, kind)
        walk = walks(table, rounds, growth, place, batch, name)
        rates.append(1e3 / walk)
        hooks(table, rounds, growth, place, name)
        often = grown(make(), batch, place, kind, every=1)
        plain, compared = (timed(partial(step, one, batch), rounds, 4) for one in (growth, often))
        table.row(
            f"{name}: a sampled step (default: every 100th), where the host's update is compared in bits",
            "",
            f"{compared - plain:.3g} ms more than the {plain:.3g} ms of a step with a seed",
            None,
        )
        for one in (growth, often):
            one.detach()
    table.at_least("gradient verifications: walks, the slower network", 1_000, min(rates))


def walks(table: Table, rounds: int, growth: esper.Growth, place: str, batch: Batch, name: str) -> float:
    """Milliseconds of the walk of the graph behind a seed's output and its loss."""
    slot, seen = growth.slots[place], []
    hook = slot.seed.seed.register_forward_hook(lambda _, __, output: seen.append(output))
    with slot.grafted():
        loss = F.cross_entropy(growth.model(batch[0]), batch[1])
    hook.remove()
    monitor, own = growth.monitor, slot.own()
    walk = timed(lambda: monitor.check_structure("tried", [seen[0], loss], own), rounds, 50)
    table.at_most(f"gradient isolation, {name}: walk of the graph behind a seed and its loss", 8.0, walk)
    return walk


def _backward(module: nn.Module, x: Tensor) -> None:
    module(x).sum().backward()


def hooks(table: Table, rounds: int, growth: esper.Growth, place: str, name: str) -> None:
    """What is asked before a step, and what the hooks on a seed's parameters take in a backward pass."""
    owners, optimizer = growth.owners, growth.optimizer
    asked = timed(lambda: owners.check_step("HOST", optimizer), rounds, 200)
    seed: Any = growth.slots[place].seed.seed
    bare = copy.deepcopy(seed)
    for parameter in bare.parameters():
        parameter.grad = None
    features = next(p for p in seed.parameters() if p.dim() > 1).shape[1]
    x = torch.randn(4, features, 8, 8) if isinstance(seed[0], nn.Conv2d) else torch.randn(4, WORDS, features)
    apart = []
    for _ in range(20 * rounds):
        times = [timed(partial(_backward, module, x), 1, 4) for module in (seed, bare)]
        apart.append(times[0] - times[1])
    table.at_most(f"backward hook check, {name}: hooks on all parameters of a seed", 0.1, median(apart))
    table.at_most(f"{name}: owners are asked before a step of the host", 0.1, asked)


def signed(table: Table, rounds: int) -> None:
    signer, opener = Signer(KEYS, BOOT, "strategy", "trainer"), Opener(KEYS, BOOT, "trainer")

    def command() -> bytes:
        return messages.OptimizerCommand(
            version=1,
            idempotency_key="0123456789abcdef",
            action=messages.OPTIMIZER_ACTION_SET_LEARNING_RATE,
            owner="layers.3",
            learning_rate=1e-3,
        ).SerializeToString()

    def there_and_back() -> None:
        letter = opener.open(signer.seal("OptimizerCommand", command()))
        parsed(messages.OptimizerCommand, letter.payload)

    sealed = iter([signer.seal("OptimizerCommand", command()) for _ in range(200 * (rounds + 1))])
    table.at_most(
        "HMAC verification, with replay protection",
        0.5,
        timed(lambda: opener.open(next(sealed)), rounds, 200),
    )
    whole = timed(there_and_back, rounds, 200)
    table.at_most(
        "optimizer message: built, sealed, opened, read (in one process nobody sends it)", 1.0, whole
    )
    table.at_least("authenticated messages: the same", 10_000, 1e3 / whole)


def breaker(table: Table, rounds: int) -> None:
    run = Run(network, settings=LENIENT)
    growth = run.growth
    assert growth is not None
    asked = timed(growth.breaker.obstacle, rounds, 2_000)
    limits, one = growth.settings, Breaker()
    failed = timed(lambda: one.after(BreakerEvent.FAILURE, 3, limits), rounds, 2_000)
    growth.detach()
    table.at_most("circuit breaker: asked", 0.01, asked)
    table.at_most("circuit breaker: told of a failure", 0.01, failed)


def telemetry(table: Table, rounds: int) -> None:
    region, values = Region("rank-0"), [0.01 + number / 1e6 for number in range(1_000)]

    def aggregate() -> None:
        for value in values:
            region.record("step_seconds", value)
        region.drain()

    whole = timed(aggregate, rounds, 5)
    table.at_most(
        "telemetry aggregation: a value, its share of the summary included", 0.2, whole / len(values)
    )
    table.at_least("telemetry aggregations", 100_000, len(values) / whole * 1e3)


def emergency(table: Table) -> None:
    """In-memory copies, the time that training waits, and how many are durable in a second."""
    for name, width in (("100 MB", 2_500), ("1 MB", 250)):
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(4)))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        waits, whole = [], []
        with tempfile.TemporaryDirectory() as folder:
            ring = open_key_ring(Path(folder), create=True)
            store = CheckpointStore(Path(folder), keyring=ring, model="linear")
            saver = BackgroundSaver(store)
            for number in range(6):
                begun = time.perf_counter()
                saver.submit(number, 0, capture_trainer(model, optimizer, step=number, epoch=0).files())
                waits.append((time.perf_counter() - begun) * 1e3)
                saver.wait()
                whole.append((time.perf_counter() - begun) * 1e3)
            saver.close()
            store.close()
        table.at_most(f"emergency checkpoint, {name}: training waits, the first time", 100.0, waits[0])
        table.at_most(f"emergency checkpoint, {name}: training waits, again", 100.0, median(waits[1:]))
        table.at_least(f"emergency checkpoints, {name}: training goes on", 10, 1e3 / median(waits[1:]))
        table.at_least(f"emergency checkpoints, {name}: durable", 10, 1e3 / median(whole[1:]))


def teaching(table: Table, rounds: int) -> None:
    kd, own = esper.StaticKDLoss(), torch.zeros(())

    def learn(output: Tensor, taught: Tensor, target: Tensor) -> None:
        kd(own, output, taught, target).backward()

    for samples, classes in ((64, 1_000), (512, 1_000), (512, 50_000)):
        output, taught = torch.randn(2, samples, classes)
        output.requires_grad_()
        target = torch.zeros(samples, dtype=torch.int64)
        ms = timed(partial(learn, output, taught, target), rounds)
        table.at_most(f"knowledge distillation: the loss and its gradient, {samples} x {classes:,}", 10.0, ms)
    teacher_of = nn.Sequential(*(nn.Linear(2_500, 2_500) for _ in range(4)))
    whole = sum(p.nbytes for p in teacher_of.parameters())
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "teacher.safetensors")
        save_file(teacher_of.state_dict(), weights)
        begun = time.perf_counter()
        esper.CheckpointedTeacher(copy.deepcopy(teacher_of), weights)
        seconds = time.perf_counter() - begun
    table.row(
        "teacher checkpoint load, 100 MB, read again from the disk's cache",
        "< 5 s",
        f"{seconds:.2f} s",
        seconds < 5,
    )
    for name, options in (
        ("bfloat16", {"precision": torch.bfloat16}),
        ("eight bits", {"int8_weights": True}),
    ):
        held = esper.CheckpointedTeacher(copy.deepcopy(teacher_of), **options).num_bytes
        share = 1 - held / whole
        table.row(f"memory reduction: a teacher's weights, {name}", "> 50 %", f"{share:.2%}", share > 0.5)


def twice_computed(table: Table, rounds: int) -> None:
    """What four segments that are computed twice take in time and give in memory, with a seed that learns."""
    batch = (torch.randn(SAMPLES, WORDS, FEATURES), torch.arange(SAMPLES) % 10)
    times, kept = [], []
    for segments in (None, SEGMENTS):
        torch.manual_seed(0)
        model = Words()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        forward = partial(loss_of, model, batch, Recomputed(model, segments) if segments else nullcontext())
        times.append(timed(partial(stepped, forward, optimizer), rounds, 4))
        kept.append(saved_bytes(model, forward))
    share, less = times[1] / times[0] - 1, 1 - kept[1] / kept[0]
    table.row(
        f"checkpoint overhead: a step of a student in {SEGMENTS} segments",
        "< 20 %",
        f"{share:.0%}",
        share < 0.2,
    )
    table.row(
        "memory reduction: activations that it keeps for the backward pass",
        "> 50 %",
        f"{less:.0%}",
        less > 0.5,
    )


def stepped(forward: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    forward().backward()
    optimizer.step()


def loss_of(model: nn.Module, batch: Batch, context: AbstractContextManager[None]) -> Tensor:
    with context:
        output = model(batch[0])
    return F.cross_entropy(output, batch[1])


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward, weights not counted."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    found = sum(held.values())
    loss.backward()
    return found


def consensus(table: Table) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank", str(rank), folder], stdout=subprocess.PIPE, text=True
            )
            for rank in (0, 1)
        ]
        told = [rank.communicate()[0] for rank in ranks]
    ms = float(told[0])
    table.at_most(
        "consensus round: two processes meet, compare all weights, and one decides (gloo)", 50.0, ms
    )
    table.at_least("consensus rounds", 20, 1e3 / ms)


def one_rank(rank: int, folder: str) -> None:
    """Rank 0 prints the milliseconds of a call that all ranks make together."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    run = Run(network)
    model = DistributedDataParallel(network(16))
    session = esper.attach(
        model,
        torch.optim.AdamW(model.parameters()),
        loss=F.cross_entropy,
        sample=(run.x[:32], run.y[:32]),
        probe=[(run.x[1000:1400], run.y[1000:1400])],
        run_dir=Path(folder, "run"),
        epochs=4,
    )
    ms = timed(session.close_breaker, 20, 5, time.perf_counter)
    session.detach()
    dist.barrier()  # nobody leaves while another still talks
    dist.destroy_process_group()
    if rank == 0:
        print(ms)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.rank:
        one_rank(int(arguments.rank[0]), arguments.rank[1])
        return
    print("# Growing: what the specification asks of single operations\n")
    table, rounds = Table(), arguments.rounds
    isolation(table, rounds)
    signed(table, rounds)
    breaker(table, rounds)
    telemetry(table, rounds)
    consensus(table)
    emergency(table)
    teaching(table, rounds)
    twice_computed(table, rounds)


if __name__ == "__main__":
    main()
