"""The bus: durable records per second in groups, publish to receive, and kills; beside it Redis.

    python benchmarks/bus.py [--records 200000] [--at-once 1000] [--kills 100] [--seed 0]

Printed: records per second that are published with keys, and read and acknowledged, by memory (the floor),
by the journal, and by a Redis server with `appendonly yes` and `appendfsync always`; the time from publishing
a single record in one process to receiving it in another; beside them the peer itself, redis-py's pipeline of
XADD and its XREADGROUP, which know no keys, no bound and no priorities. All on the same disk, one after the
other.
Then a writer of the journal is killed (SIGKILL) at random moments, and its successor repeats the last group,
because it does not know how that ended, while a group reads: what was acknowledged and lost, and what the
group was given twice.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import redis

from esper.leyline.wire import messages
from esper.oona import Limits, MemoryBus, envelope_of, open_bus

TARGET, AIM = 20_000, 100_000
TOPIC = "TelemetryEvent"
SINGLES, PAUSE_SECONDS = 1_000, 0.004
KILLED_AT_ONCE = 50
SPAWN = multiprocessing.get_context("spawn")


def record(number: int) -> messages.EventEnvelope:
    message = messages.TelemetryEvent(
        version=1,
        kind="epoch_ended",
        by="session",
        text="Step 1200.",
        metrics={"accuracy": 0.91, "loss": 0.31},
    )
    return envelope_of(message, at_seconds=time.time(), key=f"run/0123456789ab/{number:012d}")


def show(name: str, count: int, seconds: float, *, has_target: bool = False) -> None:
    rate = count / seconds
    goal = f"   target {TARGET:,}: {'met' if rate >= TARGET else 'MISSED'}; aim {AIM:,}" if has_target else ""
    print(f"{name:52} {rate:12,.0f} /s{goal}", flush=True)


def measure(
    name: str, bus: Any, groups: list[list[messages.EventEnvelope]], *, has_target: bool = False
) -> None:
    count = sum(map(len, groups))
    reader = bus.subscribe(TOPIC, "bench")
    begun = time.perf_counter()
    stored = sum(bus.publish(group).stored for group in groups)
    show(f"{name}: publish", count, time.perf_counter() - begun, has_target=has_target)
    begun, keys = time.perf_counter(), list[str]()
    while taken := reader.receive(len(groups[0])):
        reader.ack(taken)
        keys += [one.envelope.idempotency_key for one in taken]
    show(f"{name}: read and acknowledge", count, time.perf_counter() - begun)
    known = sum(bus.publish(group).known for group in groups[-1:])
    lost, twice = count - len(set(keys)), len(keys) - len(set(keys))
    print(f"{name}: {stored} stored, lost {lost}, twice {twice}, known when repeated {known}")
    bus.close()


@contextmanager
def redis_server(folder: str) -> Iterator[str]:
    """The path of the socket of a server that syncs every write to that folder."""
    with tempfile.TemporaryDirectory() as short:  # the path of a socket must be
        socket = f"{short}/socket"
        asked = ["redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--dir", folder]
        asked += ["--appendonly", "yes", "--appendfsync", "always"]
        with subprocess.Popen(asked, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert any("ready to accept" in line.lower() for line in server.stdout), "it does not listen"
            yield socket
            server.kill()


def peer_published(client: Any, groups: list[list[messages.EventEnvelope]]) -> None:
    raws = [[one.SerializeToString() for one in group] for group in groups]
    begun = time.perf_counter()
    for group in raws:
        pipeline = client.pipeline(transaction=False)
        for raw in group:
            pipeline.xadd("peer", {"r": raw})
        pipeline.execute()
    show("peer: XADD in pipelines, fsync always", sum(map(len, groups)), time.perf_counter() - begun)
    client.delete("peer")


def publish_singles(address: str) -> None:
    """A process that publishes one record after the other, with a pause between."""
    bus = open_bus(address)
    for number in range(SINGLES):
        bus.publish([record(number)])
        time.sleep(PAUSE_SECONDS)


def peer_singles(socket: str) -> None:
    client = redis.Redis(unix_socket_path=socket)
    for number in range(SINGLES):
        client.xadd("peer", {"r": record(number).SerializeToString()})
        time.sleep(PAUSE_SECONDS)


def show_latency(
    name: str, publish: Callable[[str], None], where: str, receive: Callable[[], list[bytes]]
) -> None:
    """Reads in this process what another publishes; both have one clock."""
    process = SPAWN.Process(target=publish, args=(where,))
    process.start()
    waited = list[float]()
    while len(waited) < SINGLES:
        raws = receive()
        now = time.time()
        waited += [(now - messages.EventEnvelope.FromString(raw).at_seconds) * 1000 for raw in raws]
        if not raws and not process.is_alive():
            break
    process.join()
    cuts = statistics.quantiles(waited, n=100)
    print(
        f"{name:52} {len(waited):,} singly: "
        f"p50 {cuts[49]:.2f} ms, p95 {cuts[94]:.2f} ms, p99 {cuts[98]:.2f} ms",
        flush=True,
    )


def bus_receiving(address: str) -> Callable[[], list[bytes]]:
    reader = open_bus(address).subscribe(TOPIC, "latency")

    def receive() -> list[bytes]:
        taken = reader.receive(100, 1.0)
        raws = [one.envelope.SerializeToString() for one in taken]
        if taken:
            reader.ack(taken)
        return raws

    return receive


def peer_receiving(socket: str) -> Callable[[], list[bytes]]:
    client: Any = redis.Redis(unix_socket_path=socket, protocol=2)
    client.xgroup_create("peer", "latency", id="0", mkstream=True)

    def receive() -> list[bytes]:
        found = client.xreadgroup("latency", "one", {"peer": ">"}, count=100, block=1000)
        entries = [entry for _, some in found or () for entry in some]
        if entries:
            client.xack("peer", "latency", *(name for name, _ in entries))
        return [fields[b"r"] for _, fields in entries]

    return receive


def publish_until_killed(path: str, first: int, acknowledged: Connection) -> None:
    bus, number = open_bus(path, Limits(max_records=10_000_000)), first
    while True:
        receipt = bus.publish([record(one) for one in range(number, number + KILLED_AT_ONCE)])
        number += KILLED_AT_ONCE
        acknowledged.send((number, receipt.known))  # everything below it


def show_kills(path: str, kills: int, seed: int) -> None:
    random_, acknowledged, known, keys = random.Random(seed), 0, 0, Counter[str]()
    bus = open_bus(path, Limits(max_records=10_000_000))
    reader = bus.subscribe(TOPIC, "bench")
    for _ in range(kills):
        ours, theirs = SPAWN.Pipe(duplex=False)
        first = max(acknowledged - KILLED_AT_ONCE, 0)  # its successor does not know how its last call ended
        process = SPAWN.Process(target=publish_until_killed, args=(path, first, theirs))
        process.start()
        theirs.close()
        said = [ours.recv()]
        kill_at = time.monotonic() + random_.uniform(0.0, 0.3)
        while (left := kill_at - time.monotonic()) > 0:
            if ours.poll(left):
                said.append(ours.recv())
        process.kill()
        process.join()
        try:
            while True:  # acknowledged before the kill, and still in the pipe
                said.append(ours.recv())
        except EOFError:
            pass
        acknowledged, known = said[-1][0], known + sum(number for _, number in said)
        while taken := reader.receive(1_000):
            keys.update(one.envelope.idempotency_key for one in taken)
            reader.ack(taken)
    lost = sum(record(number).idempotency_key not in keys for number in range(acknowledged))
    twice = sum(count > 1 for count in keys.values())
    print(
        f"journal: writer killed {kills} times among {acknowledged:,} acknowledged records, "
        f"{KILLED_AT_ONCE} at once: lost {lost}, given twice {twice}; "
        f"{known:,} were published again by a successor, and known",
        flush=True,
    )
    bus.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--records", type=int, default=200_000)
    arguments.add_argument("--at-once", type=int, default=1_000)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    at_once, limits = options.at_once, Limits(max_records=2 * options.records)
    groups = [[record(n) for n in range(at, at + at_once)] for at in range(0, options.records, at_once)]
    print(f"{options.records:,} records of {len(groups[0][0].SerializeToString())} bytes, {at_once} at once")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        measure("memory", MemoryBus(limits), groups)
        measure("journal", open_bus(f"{name}/bus.sqlite", limits), groups, has_target=True)
        single = f"{name}/single.sqlite"
        show_latency("journal: publish to receive", publish_singles, single, bus_receiving(single))
        with redis_server(name) as socket:
            peer_published(redis.Redis(unix_socket_path=socket), groups)
            show_latency("peer: XADD to XREADGROUP", peer_singles, socket, peer_receiving(socket))
            address = f"unix://{socket}"
            measure("Redis bus, fsync always", open_bus(address, limits), groups)
            redis.Redis(unix_socket_path=socket).flushall()
            show_latency("Redis bus: publish to receive", publish_singles, address, bus_receiving(address))
        show_kills(f"{name}/killed.sqlite", options.kills, options.seed)


if __name__ == "__main__":
    main()
