"""`esper watch`: what runs publish to a bus, read as one of a group, acknowledged once it is printed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.table import Table

from esper.cli import output
from esper.errors import ConfigError, ContractError
from esper.leyline import encode
from esper.leyline.wire import messages, parsed
from esper.oona import Bus, Counts, DeadLetter, Delivery, checked_address, open_bus

TOPIC = "TelemetryEvent"
_AT_ONCE = 200
_WAIT_SECONDS = 1.0


def watch(address: str, group: str, as_json: bool) -> None:
    """Prints what is published, until it is interrupted.

    Raises:
        ConfigError: it is no address.
        ContractError: the name of the group cannot be one.
        BusError: the bus cannot be used.
    """
    is_new = _is_no_file(address)
    with closing(open_bus(address)) as bus:
        reader, losses = bus.subscribe(TOPIC, group), Counts()
        if is_new:
            sys.stderr.write(f"There was no bus at {address}: it is made, and nothing is on it yet.\n")
        while True:
            taken = reader.receive(_AT_ONCE, _WAIT_SECONDS)
            done = list(_printed(taken, as_json))
            sys.stdout.flush()
            reader.ack(done)  # afterwards: what a kill has kept from the screen comes again
            losses = _losses_told(bus, losses)


def show_dead(address: str, group: str, as_json: bool) -> None:
    """Prints the records that the group was given too often.

    Raises:
        ConfigError: it is no address, or there is no bus.
        BusError: the bus cannot be used.
    """
    if _is_no_file(address):
        raise ConfigError(f"There is no bus at {address}. Name the one that telemetry.bus names.")
    with closing(open_bus(address)) as bus:
        letters = bus.dead(TOPIC, group)
    output.show(_table(group, letters), [_letter(one) for one in letters], as_json)


def _is_no_file(address: str) -> bool:
    return "://" not in checked_address(address) and not Path(address).exists()


def _printed(taken: list[Delivery], as_json: bool) -> Iterator[Delivery]:
    """Prints each that can be read; the others are left to become dead letters of the group."""
    for one in taken:
        try:
            event = parsed(messages.TelemetryEvent, one.envelope.payload)
        except ContractError as error:
            named = f"{one.envelope.type} with the key {one.envelope.idempotency_key!r}"
            sys.stderr.write(
                f"A record of {named} cannot be read: {error} It is not acknowledged, "
                "and a dead letter after five deliveries.\n"
            )
            continue
        if as_json:
            sys.stdout.write(json.dumps(_document(one, event), allow_nan=False) + "\n")
        else:
            output.console().print(_line(one, event), soft_wrap=True)
        yield one


def _run_of(envelope: messages.EventEnvelope) -> str:
    return envelope.idempotency_key.partition("/")[0]


def _line(one: Delivery, event: messages.TelemetryEvent) -> str:
    moment = time.strftime("%H:%M:%S", time.localtime(event.at_seconds))
    epoch = f"epoch {event.epoch}: " if event.HasField("epoch") else ""
    again = f" (delivered for the {one.attempt}. time)" if one.attempt > 1 else ""
    problem = "problem: " if event.priority >= messages.PRIORITY_HIGH else ""
    return f"{moment}  {_run_of(one.envelope)}  {problem}{epoch}{event.text}{again}"


def _document(one: Delivery, event: messages.TelemetryEvent) -> dict[str, Any]:
    return {
        "at_seconds": event.at_seconds,
        "run": _run_of(one.envelope),
        "kind": event.kind,
        "by": event.by,
        "priority": messages.Priority.Name(event.priority).removeprefix("PRIORITY_").lower(),
        "epoch": event.epoch if event.HasField("epoch") else None,
        "text": event.text,
        # Seven digits are what the message holds of a number.
        "metrics": {name: encode(float(f"{value:.7g}")) for name, value in sorted(event.metrics.items())},
        "key": one.envelope.idempotency_key,
        "attempt": one.attempt,
    }


def _losses_told(bus: Bus, before: Counts) -> Counts:
    """Says what the bus has lost since the last look, on standard error."""
    now = bus.counts(TOPIC)
    lost = {
        "shed, because the bus was full": now.shed - before.shed,
        "removed unread, because they were too old": now.expired - before.expired,
        "dead letters that made room for later ones": now.forgotten - before.forgotten,
    }
    for why, number in lost.items():
        if number > 0:
            sys.stderr.write(f"{number:,} records: {why}.\n")
    return now


def _letter(one: DeadLetter) -> dict[str, Any]:
    envelope = one.envelope
    return {
        "at_seconds": one.at_seconds,
        "deliveries": one.deliveries,
        "reason": one.reason,
        "type": envelope.type,
        "key": envelope.idempotency_key,
    }


def _table(group: str, letters: list[DeadLetter]) -> Table | str:
    if not letters:
        return f"The group {group} has no dead letters."
    table = Table(title=f"Dead letters of the group {group}, the oldest first")
    for name in ("given up", "deliveries", "record", "why"):
        table.add_column(name)
    for one in letters:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at_seconds))
        table.add_row(moment, str(one.deliveries), one.envelope.idempotency_key or "(unreadable)", one.reason)
    return table
