"""kill -9 while a cycle decides: what was decided is not measured, told or committed a second time."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, get_args

import pytest
from torch import nn

from esper.anatomy import Anatomy
from esper.batches import HeldOut
from esper.checkpoint import CheckpointStore
from esper.elesh import Case
from esper.emrakul.cycle.coordinator import Coordinator
from esper.emrakul.cycle.runner import CycleRunner
from esper.emrakul.plan import Situation
from esper.emrakul.schedule import Schedule
from esper.leyline import encode
from esper.nissa import Event, acts
from esper.workers import InlinePool
from tests.elesh.cases import RING, Saved, saved
from tests.elesh.test_analyst import analyst
from tests.emrakul.cycle.test_records import decided
from tests.emrakul.cycle.test_runner import LENIENT, PRUNING
from tests.faults.dying import NEVER, DeadlyStorage
from tests.session.processes import told_by

Point = Literal["measured", "decided", "committing", "committed"]
TIMES = 2


@dataclass
class Dying:
    """Takes the audit's place; kills the process before or after an entry, or in the commit that follows."""

    store: CheckpointStore
    storage: DeadlyStorage
    point: Point

    def emit(self, event: Event) -> None:
        if self.point == "measured":
            die()
        self.store.audit.emit(event)
        if self.point == "decided":
            die()
        if self.point == "committing":
            self.storage.fail_at = len(self.storage.calls) + 5


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def opened(run: Path, anatomy: Anatomy, case: Case, storage: DeadlyStorage) -> Saved:
    """The same checkpoint in a store of this process."""
    store = CheckpointStore(run, keyring=RING, model="net", storage=storage, clock=lambda: 1.5)
    (checkpoint,) = store.list().checkpoints
    return Saved(store, checkpoint, nn.Module(), anatomy, HeldOut((), ()), case)


def decide(run: Path, anatomy: Anatomy, case: Case, point: Point) -> None:
    storage = DeadlyStorage(NEVER)
    made = opened(run, anatomy, case, storage)
    coordinator = Coordinator(PRUNING, iter(range(10**6)).__next__)
    sink = Dying(made.store, storage, point)
    runner = CycleRunner(coordinator, Schedule(PRUNING, 10), made.store, sink, "settings")
    eyes = replace(analyst(made, InlinePool()), validation=LENIENT)
    runner.start(lambda: made.checkpoint, 2, Situation.whole(anatomy), lambda _: eyes)
    runner.collect(60.0)
    die()


def decide_often(run: Path, anatomy: Anatomy, case: Case, told: Connection) -> None:
    """Decides in a process of its own that dies, for each point and time; keeps what each has left."""
    for point in get_args(Point):
        for time in range(TIMES):
            shutil.rmtree(run)
            shutil.copytree(left_by(run), run)
            if (process := os.fork()) == 0:
                decide(run, anatomy, case, point)
            _, status = os.waitpid(process, 0)
            told.send(os.waitstatus_to_exitcode(status))
            run.rename(left_by(run, point, time))
            run.mkdir()


def left_by(run: Path, point: str = "nobody", time: int = 0) -> Path:
    """Where what a process has left lies; of nobody: the run before."""
    return run.with_name(f"{point}-{time}")


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    made = saved(tmp_path_factory.mktemp("kills") / "run", steps=200)
    made.store.close()
    run = made.store.run_dir
    shutil.copytree(run, left_by(run))
    ends = told_by(decide_often, run, made.anatomy, made.case)
    assert ends == [-signal.SIGKILL] * TIMES * len(get_args(Point))
    return made


@pytest.mark.parametrize("point", get_args(Point))
def test_what_a_killed_process_had_decided_is_taken_up_and_nothing_is_done_twice(
    sample: Saved, point: Point
) -> None:
    run = sample.store.run_dir
    for time in range(TIMES):
        shutil.rmtree(run)
        left_by(run, point, time).rename(run)
        made = opened(run, sample.anatomy, sample.case, DeadlyStorage(NEVER))
        before = made.store.audit.told(acts.Decided)
        assert len(before) == (point != "measured")
        end, tasks = decided(made, LENIENT)
        assert (tasks > 0) == (point == "measured")
        assert end.mask is not None
        assert end.outcome is not None
        (decision,) = made.store.audit.told(acts.Decided)
        assert encode(end.outcome) == decision.outcome
        assert [record.key for record in end.state.history] == [str(end.outcome.key)]
        assert encode(replace(end.state, history=())) == decision.memory
        (mask,) = made.store.attachments(made.checkpoint).found
        assert mask.name == "mask-01"
        made.store.close()
