"""The bus: durable records per second in groups, in a journal and in Redis that syncs each write.

    python benchmarks/bus.py [--records 200000] [--at-once 1000]

Printed: records per second that are published with keys, and read and acknowledged, by memory (the floor),
by the journal, and by a Redis server with `appendonly yes` and `appendfsync always`; beside them the peer
itself, redis-py's pipeline of XADD, which knows no keys, no bound and no priorities. Both on the same disk,
one after the other.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

from esper.leyline.wire import messages
from esper.oona import Limits, MemoryBus, envelope_of, open_bus

TARGET, AIM = 20_000, 100_000


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
    reader = bus.subscribe("TelemetryEvent", "bench")
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


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--records", type=int, default=200_000)
    arguments.add_argument("--at-once", type=int, default=1_000)
    options = arguments.parse_args()
    at_once, limits = options.at_once, Limits(max_records=2 * options.records)
    groups = [[record(n) for n in range(at, at + at_once)] for at in range(0, options.records, at_once)]
    print(f"{options.records:,} records of {len(groups[0][0].SerializeToString())} bytes, {at_once} at once")
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        measure("memory", MemoryBus(limits), groups)
        measure("journal", open_bus(f"{name}/bus.sqlite", limits), groups, has_target=True)
        socket = str(Path(tempfile.mkdtemp()) / "socket")
        options_ = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", name]
        always = ["--appendonly", "yes", "--appendfsync", "always"]
        with subprocess.Popen(["redis-server", *options_, *always], stdout=subprocess.DEVNULL) as server:
            client = redis.Redis(unix_socket_path=socket)
            for _ in range(500):
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.01)
            raws = [[one.SerializeToString() for one in group] for group in groups]
            begun = time.perf_counter()
            for group in raws:
                pipeline = client.pipeline(transaction=False)
                for raw in group:
                    pipeline.xadd("peer", {"r": raw})
                pipeline.execute()
            show("peer: XADD in pipelines, fsync always", options.records, time.perf_counter() - begun)
            client.delete("peer")
            measure("Redis bus, fsync always", open_bus(f"unix://{socket}", limits), groups)
            server.kill()


if __name__ == "__main__":
    main()
