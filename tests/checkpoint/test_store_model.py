"""The store against a model of it: random saves, kills, flips, attachments, restarts and rollbacks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from esper.checkpoint.faulty import FaultyStorage
from esper.checkpoint.storage import PosixStorage
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError
from tests.checkpoint.runs import content, debris, flip, holds, names, open_store


class PowerCut(BaseException):
    """The process is gone: nothing after this call happens, not even cleaning up."""


class DyingStorage(FaultyStorage):
    """Raises PowerCut at the chosen call and at every one after it."""

    def _count(self, call: str, *, takes_space: bool = True) -> None:
        self.calls.append(call)
        if 0 < self.fail_at <= len(self.calls):
            raise PowerCut


class StoreMachine(RuleBasedStateMachine):
    """`good` and `bad` are the steps that should be there, intact or damaged."""

    @initialize(keep_last=st.integers(1, 3))
    def start(self, keep_last: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.run_dir = Path(self.folder.name)
        self.keep_last = keep_last
        self.good: set[int] = set()
        self.bad: set[int] = set()
        self.pinned: set[int] = set()
        self.next = 0
        self.masks = 0
        self.open()

    def open(self) -> None:
        self.storage = DyingStorage(fail_at=0)
        self.store: CheckpointStore = open_store(self.run_dir, keep_last=self.keep_last, storage=self.storage)
        assert debris(self.run_dir) == []

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()

    def retain(self) -> None:
        good = sorted(self.good, reverse=True)
        if len(good) >= self.keep_last:
            oldest = good[self.keep_last - 1]
            self.good = {s for s in self.good if s >= oldest or s in self.pinned}
            self.bad = {s for s in self.bad if s >= oldest or s in self.pinned}

    @rule(pin=st.booleans(), gap=st.integers(1, 3))
    def save(self, pin: bool, gap: int) -> None:
        self.next += gap
        self.store.save(self.next, 0, content(self.next), pin="x" if pin else None)
        self.good.add(self.next)
        self.pinned |= {self.next} if pin else set()
        self.retain()

    @rule(call=st.integers(1, 25), again=st.booleans())
    def die_while_saving(self, call: int, again: bool) -> None:
        step = self.next + 1
        self.storage.fail_at = len(self.storage.calls) + call
        try:
            self.store.save(step, 0, content(step))
            acknowledged = True
        except PowerCut:
            acknowledged = False
        self.store.close()
        self.open()
        present = {int(path.name[5:]) for path in self.store.catalog.newest_first()}
        if acknowledged:
            assert step in present
        if step in present:
            self.good.add(step)
            self.next = step
        before = self.good | self.bad
        gone = before - present  # retention may have begun before the end
        self.retain()
        assert gone.isdisjoint(self.good | self.bad)
        self.good &= present
        self.bad &= present
        extra = present - self.good - self.bad
        assert extra <= before
        self.good |= {
            s
            for s in extra
            if self.store.catalog.verify(self.store.catalog.directory / f"step-{s:09d}").is_ok
        }
        self.bad |= extra - self.good

    @rule(error=st.sampled_from(["EIO", "ENOSPC"]), call=st.integers(1, 14))
    def fail_while_saving(self, error: str, call: int) -> None:
        step = self.next + 1
        faulty = FaultyStorage(fail_at=0, error="EIO" if error == "EIO" else "ENOSPC")
        self.store.close()
        self.store = open_store(self.run_dir, keep_last=self.keep_last, storage=faulty)
        faulty.fail_at = len(faulty.calls) + call
        try:
            self.store.save(step, 0, content(step))
        except CheckpointError:
            assert debris(self.run_dir) == []
        else:
            faulty.fail_at = 0
            self.next = step
            self.good.add(step)
            self.retain()
        self.store.close()
        self.open()
        present = {int(path.name[5:]) for path in self.store.catalog.newest_first()}
        self.good |= {s for s in present - self.bad if s <= self.next}  # retention may have failed
        self.good &= present
        self.bad &= present

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.good)))
        path = self.store.catalog.at(step).path
        file = data.draw(
            st.sampled_from(sorted(p for p in path.iterdir() if p.is_file() and p.stat().st_size))
        )
        flip(file, data.draw(st.integers(0, file.stat().st_size - 1)), data.draw(st.integers(0, 7)))
        self.good.remove(step)
        self.bad.add(step)

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def attach_and_release(self, data: st.DataObject) -> None:
        ref = self.store.catalog.at(data.draw(st.sampled_from(sorted(self.good))))
        self.store.commit_attachment(ref, f"mask-{self.masks}", {"m": b"1"})
        self.masks += 1
        self.pinned.add(ref.step)

    @precondition(lambda self: self.good)
    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        step = data.draw(st.sampled_from(sorted(self.good)))
        self.store.withdraw_after(self.store.catalog.at(step))
        self.next = step
        for steps in (self.good, self.bad, self.pinned):
            steps -= {s for s in steps if s > step}

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    @invariant()
    def the_newest_good_one_is_found(self) -> None:
        if not hasattr(self, "store"):
            return
        search = self.store.search()
        newest = max(self.good, default=None)
        assert (search.found.step if search.found else None) == newest
        assert search.found is None or holds(search.found, search.found.step)
        worse = {int(r.path.name[5:]) for r in search.rejected}
        assert worse == {s for s in self.bad if newest is None or s > newest}
        present = {int(name[5:]) for name in names(self.run_dir / "checkpoints") if name.startswith("step-")}
        assert present == self.good | self.bad


def test_the_store_does_what_its_model_does() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=40, stateful_step_count=20, suppress_health_check=[HealthCheck.too_slow]
        ),
    )


def test_the_dying_storage_dies_for_good(tmp_path: Path) -> None:
    storage = DyingStorage(fail_at=2, inner=PosixStorage())
    storage.make_directory(tmp_path / "a")
    for _ in range(2):
        with pytest.raises(PowerCut):
            storage.remove_directory(tmp_path / "a")
