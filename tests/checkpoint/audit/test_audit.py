"""What an audit is told is durable when the call returns, in the order in which it was told."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import struct
import threading
from pathlib import Path

import pytest

from esper.checkpoint.audit import AuditReader
from esper.checkpoint.catalog import CheckpointCatalog
from esper.errors import CheckpointError
from esper.nissa import acts, events
from tests.checkpoint.runs import RING, content, open_store


def kinds(run: Path) -> list[str]:
    reader = AuditReader(CheckpointCatalog(run, RING), RING)
    assert not reader.report.findings
    return [stored.entry.kind for stored in reader.entries()]


def test_an_entry_holds_every_field_of_its_event_and_who_acts_when(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(acts.WentBack(3, 120))
    (stored,) = AuditReader(CheckpointCatalog(tmp_path, RING), RING).entries()
    entry = stored.entry
    assert (entry.at_seconds, entry.epoch, entry.kind, entry.by) == (1.5, 3, "went_back", "user")
    assert entry.facts == {"epoch": 3, "to_step": 120}
    assert entry.text == "Went back to step 120 by hand."
    assert "@" in entry.who


def test_a_reader_sees_what_was_told_while_the_run_goes_on(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(events.Refused(1, "No."))
        assert kinds(tmp_path) == ["refused"]
        store.audit.emit(events.Idle(1, "Nothing."))  # which is no news
        store.audit.emit(acts.Vetoed(2, "I saw it."))
        assert kinds(tmp_path) == ["refused", "vetoed"]
        assert store.audit.told(acts.Vetoed) == [acts.Vetoed(2, "I saw it.")]
    assert not list(tmp_path.glob("audit.sqlite-*"))  # one file holds it all


def test_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(events.Refused(1, "No."))
        files = list(tmp_path.glob("audit.sqlite*"))
        assert len(files) == 3
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_nothing_told_makes_no_file_and_no_anchor(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        assert store.save(1, 1, content(1)).manifest.audit is None
    assert not (tmp_path / "audit.sqlite").exists()


def test_threads_that_tell_at_once_lose_nothing_and_share_commits(tmp_path: Path) -> None:
    each, threads = 10, 4
    with open_store(tmp_path) as store:

        def tell(number: int) -> None:
            for turn in range(each):
                store.audit.emit(events.Refused(number, f"{turn}"))

        running = [threading.Thread(target=tell, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        commits = store.audit.commits
    reader = AuditReader(CheckpointCatalog(tmp_path, RING), RING)
    assert not reader.report.findings
    turns: dict[int | None, list[str]] = {}
    for stored in reader.entries():
        turns.setdefault(stored.entry.epoch, []).append(stored.entry.facts["reason"])
    assert turns == {number: [str(turn) for turn in range(each)] for number in range(threads)}
    assert commits < each * threads


def test_a_group_is_one_commit_in_its_order_and_an_empty_one_is_none(tmp_path: Path) -> None:
    group = [events.Refused(number, "No.") for number in range(5)]
    with open_store(tmp_path) as store:
        store.audit.emit_all([events.Idle(1, "Nothing.")])  # which is no news
        assert store.audit.commits == 0
        store.audit.emit_all([*group, acts.WentBack(9, 1)])
        assert store.audit.commits == 1
        assert store.audit.told(events.Refused) == group
        anchor = store.save(1, 1, content(1)).manifest.audit
        assert anchor is not None
        assert anchor.number == 6
    assert kinds(tmp_path) == ["refused"] * 5 + ["went_back"]


def test_of_a_group_that_cannot_be_written_the_acts_are_refused_and_the_rest_waits(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(events.Refused(1, "No."))
        other = full(tmp_path)
        with pytest.raises(CheckpointError, match="What must be in it first is not done"):
            store.audit.emit_all([events.Refused(2, "No."), acts.WentBack(2, 6), events.Refused(3, "No.")])
        store.audit.emit_all([events.Refused(4, "No."), events.Refused(5, "No.")])
        other.execute("DROP TRIGGER full")
        other.close()
        store.audit.emit(acts.WentBack(6, 6))
        assert [event.epoch for event in store.audit.told(events.Refused)] == [1, 2, 3, 4, 5]
        assert store.audit.told(acts.WentBack) == [acts.WentBack(6, 6)]
    assert kinds(tmp_path) == ["refused"] * 5 + ["went_back"]


def test_a_process_that_is_killed_leaves_whole_groups_and_every_one_it_was_told_of(tmp_path: Path) -> None:
    size = 40
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open_store(tmp_path) as store:
                while True:
                    store.audit.emit_all([events.Refused(number, "No.") for number in range(size)])
                    os.write(theirs, b".")
        finally:
            os._exit(1)
    os.close(theirs)
    acknowledged = sum(len(os.read(ours, 1)) for _ in range(6))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(ours, 4096):
        acknowledged += len(more)
    os.close(ours)
    whole, rest = divmod(len(kinds(tmp_path)), size)
    assert rest == 0
    assert whole >= acknowledged
    with open_store(tmp_path) as store:  # which goes on
        store.audit.emit(acts.WentBack(1, 1))
    assert kinds(tmp_path)[-1] == "went_back"


def full(run: Path) -> sqlite3.Connection:
    """Somebody holds the database so that nothing can be written, as on a full disk."""
    other = sqlite3.connect(run / "audit.sqlite", isolation_level=None)
    other.execute("CREATE TRIGGER full BEFORE INSERT ON entries BEGIN SELECT RAISE(FAIL, 'full'); END")
    return other


def test_an_act_that_cannot_be_written_is_refused_and_the_rest_waits(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(events.Refused(1, "No."))
        other = full(tmp_path)
        store.audit.emit(events.SaveFailed(2, "The disk is full."))
        with pytest.raises(CheckpointError, match=r"cannot be written: full\. What must be in it first"):
            store.audit.emit(acts.WentBack(2, 6))
        with pytest.raises(CheckpointError):  # what no audit holds is in no checkpoint
            store.save(1, 1, content(1))
        other.execute("DROP TRIGGER full")
        other.close()
        anchor = store.save(1, 1, content(1)).manifest.audit
        assert anchor is not None
        assert anchor.number == 2
    assert kinds(tmp_path) == ["refused", "save_failed"]


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(events.Refused(1, "No."))
        child = os.fork()
        if child == 0:
            try:
                store.audit.emit(acts.WentBack(1, 1))
            except CheckpointError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    assert kinds(tmp_path) == ["refused"]


def test_what_is_told_after_the_end_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        pass
    with pytest.raises(CheckpointError, match="not open in this process"):
        store.audit.emit(acts.WentBack(1, 1))


def test_a_power_cut_in_its_first_commit_is_taken_back_and_nobody_is_accused(tmp_path: Path) -> None:
    """SQLite had begun the file, with what undoes that beside it: a journal of a database of no pages."""
    journal = struct.pack(">8s5I", bytes.fromhex("d9d505f920a163d7"), 0, 7, 0, 512, 4096).ljust(512, b"\0")
    with open_store(tmp_path) as store:
        store.save(1, 1, content(1))
    (tmp_path / "audit.sqlite").write_bytes(b"SQLite f".ljust(4096, b"\0"))
    (tmp_path / "audit.sqlite-journal").write_bytes(journal)
    assert AuditReader(CheckpointCatalog(tmp_path, RING), RING).report.entries == 0
    with open_store(tmp_path) as store:
        store.audit.emit(acts.WentBack(3, 120))
    assert kinds(tmp_path) == ["went_back"]
    assert sorted(path.name for path in tmp_path.glob("*audit*")) == ["audit.sqlite"]


def test_a_name_of_a_table_that_is_no_text_any_more_is_told(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(acts.WentBack(3, 120))
    file = tmp_path / "audit.sqlite"
    file.write_bytes(file.read_bytes().replace(b"tableentriesentries", b"tableentri\x90sentries"))
    (finding,) = AuditReader(CheckpointCatalog(tmp_path, RING), RING).report.findings
    assert "cannot be read" in finding.text
