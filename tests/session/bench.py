"""A run that trains nothing: desk, ledger and checkpoints, and what was done; it dies where it is told to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, get_args

from esper.checkpoint import CheckpointStore, Entry, Memory, PosixStorage, open_key_ring
from esper.errors import ConfigError
from esper.leyline.wire import messages
from esper.nissa import Event, acts
from esper.runs import Asker, Mailbox
from esper.session.desk import Desk
from esper.session.ledger import Ledger
from esper.session.log import RunLog

Point = Literal["taken", "written", "accepted", "doing", "done", "answered", "sent", "saved"]
POINTS: tuple[Point, ...] = get_args(Point)
"""Rows of the table of `esper.session.ledger`, by when the process is killed."""
STEPS = 6
GROW, ROLL_BACK = messages.ADAPTATION_ACTION_GROW, messages.ADAPTATION_ACTION_ROLL_BACK


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Hasty(PosixStorage):
    """Does not wait for the disk: a kill takes nothing from the system's memory."""

    def sync(self, descriptor: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass


class Deadly:
    """A sink that kills its process when it is told of one class of events."""

    def __init__(self, of: type[Event]) -> None:
        self._of = of

    def emit(self, event: Event) -> None:
        if isinstance(event, self._of):
            die()

    def emit_all(self, group: Any) -> None:
        for event in group:
            self.emit(event)


class Bench:
    """One process's share of the run in a directory.

    Args:
        run_dir: of the run.
        point: where it dies.
    """

    def __init__(self, run_dir: Path, point: Point | None = None) -> None:
        self.done: list[str] = []
        """What was done, as the network has it: a rollback takes back what came after."""
        self._point = point
        ring = open_key_ring(run_dir, create=True)
        self.store = CheckpointStore(run_dir, keyring=ring, model="none", storage=Hasty())
        self.log = RunLog()
        sinks = self.log.telling.sinks
        sinks.insert(0, self.store.audit)
        for place, when, of in ((0, "taken", acts.Commanded), (1, "written", acts.Commanded)):
            if point == when:
                sinks.insert(place, Deadly(of))
        if point == "answered":
            sinks.insert(1, Deadly(acts.Answered))
        ledger = Ledger(self.store.audit, self.log)
        entries = [
            Entry("progress", self.log.progress),
            Entry("commands", ledger, survives_rollback=True),
            Entry("effects", self),
        ]
        self._memory = Memory(entries)
        if (newest := self.store.latest()) is not None:
            self._memory.load(json.loads(newest.file("state.json").read_bytes()))
        mail = Mailbox(run_dir, ring, self.store.identity.id, lambda _: None)
        doing: Mapping[int, Callable[[messages.AdaptationCommand], str]] = {
            GROW: self._grow,
            ROLL_BACK: self._roll_back,
        }
        state = messages.SystemStatePacket(version=1)
        self.desk = Desk(mail, ledger, self.log, doing, lambda: state)

    def end_epoch(self) -> None:
        """Trains, saves, and does what was asked for."""
        progress = self.log.progress
        progress.step += STEPS
        progress.epoch += 1
        files = {"state.json": json.dumps(self._memory.state()).encode()}
        self.store.save(progress.step, progress.epoch, files)
        self._at("saved", self.done != [])
        self.desk.carry_out()
        self._at("sent", self.done != [])

    def close(self) -> None:
        self.desk.close()
        self.store.close()

    def at_once(self) -> None:
        """Looks as where a step ends."""
        self.desk.look()
        self._at("accepted")

    def _grow(self, command: messages.AdaptationCommand) -> str:
        if not command.slot:
            raise ConfigError("Nowhere to grow.")
        self._at("doing")
        self.done.append(command.slot)
        self._at("done")
        return "Grown."

    def _roll_back(self, command: messages.AdaptationCommand) -> str:
        target = self.store.catalog.at(command.rollback.to_step)
        self.log.tell(acts.WentBack(target.epoch, target.step))
        self._at("doing")
        self._memory.load(json.loads(target.file("state.json").read_bytes()), as_rollback=True)
        self.done.append("back")
        self.store.withdraw_after(target)
        self._at("done")
        return f"Went back to step {target.step}."

    def _at(self, point: Point, is_so_far: bool = True) -> None:
        if self._point == point and is_so_far:
            die()

    def state(self) -> Any:
        return list(self.done)

    def check(self, state: Any) -> None:
        """Everything fits."""

    def load(self, state: Any) -> None:
        self.done = list(state)


def run_until(run_dir: Path, point: Point, raw: bytes) -> None:
    """Trains two epochs, is asked for something, and dies at one point of that."""
    bench = Bench(run_dir, point)
    bench.end_epoch()
    bench.end_epoch()
    with Asker(run_dir, open_key_ring(run_dir)) as one:
        one.send(messages.AdaptationCommand.FromString(raw))
        bench.at_once()
        bench.end_epoch()
        bench.end_epoch()


def run_all(cases: Sequence[tuple[Path, Point, bytes]], told: Connection) -> None:
    """Each case in a fork of a process that has imported everything; tells how each has ended."""
    for case in cases:
        if (process := os.fork()) == 0:
            try:
                run_until(*case)
            finally:
                os._exit(1)  # it lives
        _, status = os.waitpid(process, 0)
        told.send(os.waitstatus_to_exitcode(status))
