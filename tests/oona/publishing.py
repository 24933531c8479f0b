"""A process of its own that publishes records with keys, from a number on, until it is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from esper.leyline.wire import messages
from esper.oona import envelope_of
from esper.oona.journal import JournalBus

TOPIC = "TelemetryEvent"


def record(number: int) -> messages.EventEnvelope:
    message = messages.TelemetryEvent(version=1, kind="noted", text=str(number))
    return envelope_of(message, at_seconds=time.time(), key=f"run/{number:09d}")


def main(path: str, first: str, at_once: str) -> None:
    bus, number = JournalBus(Path(path)), int(first)
    while True:
        bus.publish([record(one) for one in range(number, number + int(at_once))])
        number += int(at_once)
        sys.stdout.write(f"{number}\n")  # everything below it is acknowledged
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
