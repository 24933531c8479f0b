"""Every state that a power cut may leave, at every call of save, attach, retention, twin, rollback."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.disk import key_of, write_tree
from tests.faults.lives import LIVES
from tests.faults.power import RecordingStorage


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


def problems(name: str, storage: RecordingStorage, disk: Path) -> tuple[int, Counter[str]]:
    """Restarts on every state that differs; how many there were, and what was wrong how often."""
    storage.root.mkdir()
    LIVES[name].act(storage.root, storage, storage.tell)
    seen: set[int] = set()
    found: Counter[str] = Counter()
    for acknowledged, tree in storage.states:
        key = hash((acknowledged, key_of(tree)))
        if key not in seen:
            seen.add(key)
            write_tree(tree, disk)
            found[LIVES[name].problem(disk, acknowledged)] += 1
            shutil.rmtree(disk)
    del found[""]
    return len(seen), found


@pytest.mark.slow
def test_no_power_cut_loses_what_was_acknowledged(memory: Path) -> None:
    count, found = problems("store", RecordingStorage(memory / "recorded"), memory / "disk")
    assert found == {}
    assert count > 300


@pytest.mark.parametrize("forgetful", [ForgetfulOfFiles, ForgetfulOfDirectories])
@pytest.mark.parametrize("name", ["store", "bundle", "import"])
def test_the_enumeration_notices_a_sync_that_is_left_out(
    memory: Path, forgetful: type[RecordingStorage], name: str
) -> None:
    _, found = problems(name, forgetful(memory / "recorded"), memory / "disk")
    assert found.total() > 0
