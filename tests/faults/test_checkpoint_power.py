"""Every state that a power cut may leave, at every call of save, attach, retention, twin, rollback."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from esper.errors import CheckpointError
from tests.checkpoint.runs import content, debris, holds, open_store
from tests.faults.power import RecordingStorage, write_tree
from tests.faults.test_checkpoint_kill_points import legal


class Forgetful(RecordingStorage):
    """Forgets one kind of sync; only the harshest state of each cut is kept."""

    def _cut(self) -> None:
        self.states.append((self.acknowledged, self.durable_tree()))


class ForgetfulOfFiles(Forgetful):
    """Forgets to sync files."""

    def sync(self, descriptor: int) -> None:
        self._cut()


class ForgetfulOfDirectories(Forgetful):
    """Forgets to sync directories."""

    def sync_directory(self, path: Path) -> None:
        self._cut()


def live(storage: RecordingStorage) -> None:
    """The same life of a run as in the kill test."""
    with open_store(storage.root / "run", keep_last=1, storage=storage) as store:
        storage.acknowledged = "opened"
        first = store.save(1, 0, content(1), pin="baseline")
        storage.acknowledged = "saved 1"
        store.commit_attachment(first, "mask-01", {"masks.bin": b"101"})
        storage.acknowledged = "saved 1 attached"
        store.save(2, 0, content(2))
        storage.acknowledged = "saved 2 attached"
        store.save(3, 0, content(3), blobs={"twin": store.put_blob("twin", b"program")})
        storage.acknowledged = "saved 3 attached"
        store.withdraw_after(first)
        storage.acknowledged = "withdrawn attached"


def problem(run_dir: Path, acknowledged: str) -> str | None:
    """What a restart on this disk finds wrong, or None."""
    with open_store(run_dir, keep_last=1) as store:
        found = store.latest()
        step = found.step if found else 0
        if step not in legal(acknowledged):
            return f"{acknowledged}, but step {step} is the newest"
        if found is not None and not holds(found, step):
            return f"step {step} is not what was saved"
        if "attached" in acknowledged:
            masks = store.attachments(store.catalog.at(1)).found
            if len(masks) != 1 or store.pins().get(1) != frozenset({"baseline", "mask-01"}):
                return "the mask commit or its pin is gone"
        return f"debris: {debris(run_dir)}" if debris(run_dir) else None


def enumerate_cuts(storage: RecordingStorage, disk: Path) -> tuple[int, Counter[str]]:
    """Restarts on every state that differs; how many there were, and what was wrong how often."""
    storage.root.mkdir()
    live(storage)
    seen: set[str] = set()
    problems: Counter[str] = Counter()
    for acknowledged, tree in storage.states:
        key = acknowledged + repr(tree)
        if key in seen:
            continue
        seen.add(key)
        write_tree(tree, disk)
        try:
            wrong = problem(disk / "run", acknowledged)
        except CheckpointError as error:
            wrong = str(error)
        if wrong is not None:
            problems[wrong] += 1
        shutil.rmtree(disk)
    return len(seen), problems


@pytest.mark.slow
def test_no_power_cut_loses_what_was_acknowledged(tmp_path: Path) -> None:
    num_states, problems = enumerate_cuts(RecordingStorage(tmp_path / "recorded"), tmp_path / "disk")
    assert problems == {}
    assert num_states > 300


@pytest.mark.parametrize("forgetful", [ForgetfulOfFiles, ForgetfulOfDirectories])
def test_the_enumeration_notices_a_sync_that_is_left_out(
    tmp_path: Path, forgetful: type[RecordingStorage]
) -> None:
    _, problems = enumerate_cuts(forgetful(tmp_path / "recorded"), tmp_path / "disk")
    assert problems.total() > 0
