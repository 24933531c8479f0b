"""Addresses of buses, good ones and others."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper.errors import BusError, ConfigError
from esper.oona import open_bus
from esper.oona.address import checked_address
from esper.oona.journal import JournalBus
from esper.oona.streams import RedisBus
from tests.oona.servers import redis_server


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", "is no bus"),
        ("runs/bus", "ends in .sqlite"),
        ("bus.sqlite\0", "is no bus"),
        ("amqp://host", "nothing is known of amqp"),
        ("redis://", "names no server"),
        ("unix://", "names no server"),
        ("redis://host:many", "no address of a Redis server"),
        ("redis://:secret@host", "ESPER_REDIS_PASSWORD"),
        ("redis://host?password=secret", "ESPER_REDIS_PASSWORD"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is(address: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as refusal:
        open_bus(address)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("address", ["a/b.sqlite", "redis://host", "rediss://u@host:1/2", "unix:///a/b"])
def test_an_address_stays_as_it_was_written(address: str) -> None:
    assert checked_address(address) == address


def test_a_path_is_a_journal_and_an_address_a_server(tmp_path: Path) -> None:
    with redis_server() as (address, process):
        journal, server = open_bus(str(tmp_path / "bus.sqlite")), open_bus(address)
        assert isinstance(journal, JournalBus)
        assert isinstance(server, RedisBus)
        process.kill()
        process.wait()
        with pytest.raises(BusError, match="No Redis answers at unix"):
            server.counts("Topic")
        server.close()
        journal.close()
    with pytest.raises(BusError, match=r"No Redis answers at redis://127.0.0.1:1"):
        open_bus("redis://127.0.0.1:1")
