"""What a Redis server may do to a bus: die and come back, ask for a password, be full, hold rubbish."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from esper.errors import BusError, ConfigError
from esper.oona.streams import RedisBus
from tests.oona.publishing import TOPIC, record
from tests.oona.servers import redis_server


def test_a_server_that_is_killed_keeps_what_it_has_synced(tmp_path: Path) -> None:
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with redis_server(*durable) as (address, process):
        bus = RedisBus(address)
        bus.publish([record(number) for number in range(10)])
        reader = bus.subscribe(TOPIC, "page")
        reader.ack(reader.receive(4))
        process.kill()
        process.wait()
        with pytest.raises(BusError, match="No Redis answers"):
            reader.receive(9)
        bus.close()
    with redis_server(*durable) as (address, _):
        again = RedisBus(address)
        assert again.publish([record(9), record(10)]).known == 1
        got = [one.envelope.idempotency_key for one in again.subscribe(TOPIC, "page").receive(99)]
        assert got == [f"run/{number:09d}" for number in range(4, 11)]
        again.close()


def test_the_password_stands_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis_server("--requirepass", "secret") as (address, _):
        with pytest.raises(BusError, match=r"refuses.*Put its password into ESPER_REDIS_PASSWORD"):
            RedisBus(address)
        monkeypatch.setenv("ESPER_REDIS_PASSWORD", "secret")
        bus = RedisBus(address)
        assert bus.publish([record(0)]).stored == 1
        bus.close()


def test_a_server_without_memory_refuses_and_people_learn_why() -> None:
    with redis_server("--maxmemory", "1") as (address, _):
        bus = RedisBus(address)
        with pytest.raises(BusError, match=r"refuses: .*maxmemory"):
            bus.publish([record(0)])
        bus.close()


def test_rubbish_in_a_stream_is_a_dead_letter() -> None:
    with redis_server() as (address, _):
        bus = RedisBus(address)
        reader = bus.subscribe(TOPIC, "page")
        with redis.Redis.from_url(address) as client:
            client.xadd(f"esper:bus:{{{TOPIC}}}:2", {"u": "1e300", "k": "", "r": b"\xff\xff"})
        bus.publish([record(0)])
        assert len(reader.receive(9)) == 1
        assert [letter.reason for letter in bus.dead(TOPIC, "page")] == ["its bytes are damaged"]
        bus.close()


def test_an_address_that_the_library_does_not_understand_is_refused() -> None:
    with pytest.raises(ConfigError, match="no address"):
        RedisBus("redis://host?db=many&socket_timeout=often")
