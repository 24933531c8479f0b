"""Whatever is done to the file of an audit is found, and called by its name."""

from __future__ import annotations

import atexit
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import pytest

from esper.checkpoint.audit.reading import AuditReader
from esper.checkpoint.audit.verify import Tampering
from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointMissing
from esper.nissa import acts, events
from tests.checkpoint.runs import OTHER_RING, RING, content, flip, open_store

FORGED = b"0123456789abcdef 4 " + b"0" * 64 + b'\n{}\n{"key":"k-000102030405","mac":"' + b"0" * 64 + b'"}\n'


@cache
def template(whose: str, ring: KeyRing) -> Path:
    """A run that others are copied from, which is quicker than to write each."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    fill(Path(folder.name) / whose, ring)
    return Path(folder.name) / whose


def written(run: Path, ring: KeyRing = RING) -> Path:
    """A run with nine events, a checkpoint after the third and the sixth; returns the file of its audit.

    Directories of other names are other runs.
    """
    shutil.copytree(template(run.name if run.name == "theirs" else "mine", ring), run, dirs_exist_ok=True)
    return run / "audit.sqlite"


def fill(run: Path, ring: KeyRing) -> None:
    with CheckpointStore(run, keyring=ring, model="net", clock=lambda: 1.5) as store:
        for number in range(1, 10):
            store.audit.emit(events.Refused(number, f"reason {number}"))
            if number % 3 == 0 and number < 9:
                store.save(number, number, content(number))


@contextmanager
def opened(file: Path) -> Iterator[sqlite3.Connection]:
    """The database as anybody opens it who can write the file."""
    with closing(sqlite3.connect(file)) as database:
        yield database
        database.commit()


def found(run: Path, ring: KeyRing = RING) -> list[Tampering]:
    """What the verification calls what it finds."""
    report = AuditReader(CheckpointCatalog(run, ring), ring).report
    return [finding.kind for finding in report.findings]


def told(run: Path) -> str:
    return "; ".join(f.text for f in AuditReader(CheckpointCatalog(run, RING), RING).report.findings)


@pytest.mark.parametrize("name", ["{}/no text \udcff", "{}/50%41?mode=rwc#1", "/{}/two slashes"])
def test_an_audit_is_read_whatever_its_run_is_called(tmp_path: Path, name: str) -> None:
    run = Path(name.format(tmp_path))
    written(run)
    assert AuditReader(CheckpointCatalog(run, RING), RING).report.entries == 9


def test_what_nobody_touched_is_intact(tmp_path: Path) -> None:
    written(tmp_path)
    report = AuditReader(CheckpointCatalog(tmp_path, RING), RING).report
    assert not report.findings
    assert (report.entries, report.expected) == (9, 9)
    assert [(name, anchor.number) for name, anchor in report.anchors] == [
        ("step-000000003", 3),
        ("step-000000006", 6),
    ]


@pytest.mark.parametrize("place", [1, 5, 9])
def test_an_edited_entry_is_named(tmp_path: Path, place: int) -> None:
    with opened(written(tmp_path)) as database:
        change = "UPDATE entries SET sealed = CAST(replace(CAST(sealed AS TEXT), 'reason', 'excuse') AS BLOB)"
        database.execute(f"{change} WHERE place = ?", (place,))
    assert found(tmp_path) == [Tampering.EDITED]
    assert f"entry {place} has other bytes" in told(tmp_path)


@pytest.mark.parametrize("place", [1, 4, 8])
@pytest.mark.parametrize("is_closed_up", [False, True])
def test_a_deleted_entry_is_named(tmp_path: Path, place: int, is_closed_up: bool) -> None:
    with opened(written(tmp_path)) as database:
        database.execute("DELETE FROM entries WHERE place = ?", (place,))
        if is_closed_up:
            database.execute("UPDATE entries SET place = place - 1 WHERE place > ?", (place,))
    assert found(tmp_path) == [Tampering.DELETED]
    assert f"entry {place} is missing" in told(tmp_path)


def make_room(database: sqlite3.Connection, place: int) -> None:
    database.execute("UPDATE entries SET place = -place WHERE place >= ?", (place,))
    database.execute("UPDATE entries SET place = 1 - place WHERE place < 0")


@pytest.mark.parametrize("place", [1, 5, 10])
def test_an_inserted_entry_is_named_whether_it_is_forged_or_a_copy(tmp_path: Path, place: int) -> None:
    for name in ("forged", "copied"):
        with opened(written(tmp_path / name)) as database:
            (copy,) = database.execute("SELECT sealed FROM entries WHERE place = 7").fetchone()
            make_room(database, place)
            row = copy if name == "copied" else FORGED.replace(b"0123456789abcdef", copy[:16])
            database.execute("INSERT INTO entries VALUES (?, ?)", (place, row))
        assert found(tmp_path / name)[:1] == [Tampering.INSERTED]
        assert set(found(tmp_path / name)) <= {Tampering.INSERTED, Tampering.REORDERED}


def test_entries_in_another_order_are_named(tmp_path: Path) -> None:
    with opened(written(tmp_path)) as database:
        database.execute("UPDATE entries SET place = 100 WHERE place = 4")
        database.execute("UPDATE entries SET place = 4 WHERE place = 5")
        database.execute("UPDATE entries SET place = 5 WHERE place = 100")
    assert found(tmp_path) == [Tampering.REORDERED]
    assert "entries 4 to 5 are in another order" in told(tmp_path)


@pytest.mark.parametrize("last", [8, 5, 0])
def test_a_tail_that_was_cut_is_named(tmp_path: Path, last: int) -> None:
    with opened(written(tmp_path)) as database:
        database.execute("DELETE FROM entries WHERE place > ?", (last,))
    assert found(tmp_path) == [Tampering.CUT]
    assert "the head tells of 9" in told(tmp_path)


def test_a_tail_that_was_cut_with_its_head_is_named_by_the_checkpoints(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with open_store(run) as store:
        store.audit.emit(events.Refused(1, "first"))
    shutil.copy(run / "audit.sqlite", tmp_path / "old.sqlite")
    with open_store(run) as store:
        store.audit.emit(events.Refused(2, "second"))
        store.save(2, 2, content(2))
    shutil.copy(tmp_path / "old.sqlite", run / "audit.sqlite")
    assert found(run) == [Tampering.CUT]
    assert "step-000000002 tells of 2" in told(run)


def test_a_file_that_is_gone_is_a_tail_that_was_cut(tmp_path: Path) -> None:
    written(tmp_path).unlink()
    assert found(tmp_path) == [Tampering.CUT]
    assert "step-000000006 was saved after entry 6" in told(tmp_path)


@pytest.mark.parametrize("ring", [RING, OTHER_RING], ids=["shared-keys", "other-keys"])
def test_the_audit_of_another_run_is_named(tmp_path: Path, ring: KeyRing) -> None:
    mine, theirs = written(tmp_path / "mine"), written(tmp_path / "theirs", ring)
    shutil.copy(theirs, mine)
    assert found(tmp_path / "mine") == [Tampering.SWAPPED]


def test_one_entry_of_another_run_under_the_same_keys_is_named(tmp_path: Path) -> None:
    mine, theirs = written(tmp_path / "mine"), written(tmp_path / "theirs")
    with opened(mine) as database:
        database.execute("ATTACH ? AS other", (str(theirs),))
        database.execute(
            "UPDATE entries SET sealed = (SELECT sealed FROM other.entries WHERE place = 5) WHERE place = 5"
        )
    assert found(tmp_path / "mine") == [Tampering.SWAPPED, Tampering.DELETED]


def test_a_second_history_of_the_same_run_is_named(tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    with open_store(run) as store:
        store.audit.emit(events.Refused(1, "first"))
        store.save(1, 1, content(1))
    shutil.copytree(run, other)
    for directory, reason in ((run, "as it was"), (other, "as somebody wants it")):
        with open_store(directory) as store:
            store.audit.emit(events.Refused(2, reason))
            store.save(2, 2, content(2))
    shutil.copy(other / "audit.sqlite", run / "audit.sqlite")
    assert found(run) == [Tampering.SWAPPED]
    assert "entry 2 is another one than step-000000002 names" in told(run)


def edited_head(database: sqlite3.Connection) -> None:
    database.execute("UPDATE head SET sealed = x'00'")


def lost_head(database: sqlite3.Connection) -> None:
    database.execute("DELETE FROM head")


@pytest.mark.parametrize("change", [edited_head, lost_head])
def test_a_head_that_was_altered_is_named(
    tmp_path: Path, change: Callable[[sqlite3.Connection], None]
) -> None:
    with opened(written(tmp_path)) as database:
        change(database)
    assert found(tmp_path) == [Tampering.EDITED]
    assert "the head" in told(tmp_path)


def views(file: Path) -> None:
    with opened(file) as database:
        database.execute("ALTER TABLE entries RENAME TO real")
        database.execute("CREATE VIEW entries AS SELECT * FROM real")


def noise(file: Path) -> None:
    file.write_bytes(b"no database")


def pipe(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/null")


@pytest.mark.parametrize("change", [views, noise, pipe])
def test_what_is_no_audit_is_told_and_runs_nothing(tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(written(tmp_path))
    assert found(tmp_path) == [Tampering.UNREADABLE]


def test_no_flipped_bit_stays_unseen(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    with opened(file) as database:
        rows = [row for (row,) in database.execute("SELECT sealed FROM entries")]
    for row in rows[2:7:2]:
        begin = whole.index(row[20:])
        for position in range(begin, begin + len(row) - 20, 7):
            flip(file, position, position % 8)
            assert found(tmp_path), f"a flip at byte {position}"
            file.write_bytes(whole)


def test_a_key_that_is_no_longer_believed_leaves_what_later_entries_vouch_for(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.audit.emit(events.Refused(1, "by the old key"))
    new = RING.add(lambda count: bytes(range(9, count + 9)))
    new = new.promote(new.keys[-1].id)
    with CheckpointStore(tmp_path, keyring=new, model="net") as store:
        store.audit.emit(events.Refused(2, "by the new key"))
    disabled = new.disable(RING.primary.id)
    assert found(tmp_path, disabled) == []
    with opened(tmp_path / "audit.sqlite") as database:
        change = "UPDATE entries SET sealed = CAST(replace(CAST(sealed AS TEXT), 'old', 'odd') AS BLOB)"
        database.execute(f"{change} WHERE place = 1")
    assert found(tmp_path, disabled) == [Tampering.EDITED]


def test_an_empty_file_is_not_called_missing(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(b"")
    assert "audit.sqlite is empty, and step-000000006 was saved after entry 6" in told(tmp_path)
    file.unlink()
    assert "audit.sqlite is missing, and step-000000006" in told(tmp_path)


def test_an_audit_that_does_not_verify_is_set_aside_and_the_next_one_says_so_for_good(tmp_path: Path) -> None:
    with opened(written(tmp_path)) as database:
        database.execute("DELETE FROM entries WHERE place > 5")
    for _ in range(2):  # it is told once, and the second start continues what the first began
        with open_store(tmp_path) as store:
            store.audit.emit(acts.WentBack(1, 2))
            store.save(100 + len(store.list().checkpoints), 9, content(1))
    reader = AuditReader(CheckpointCatalog(tmp_path, RING), RING)
    assert [entry.entry.kind for entry in reader.entries()] == ["audit_replaced", "went_back", "went_back"]
    assert [entry.number for entry in reader.entries()] == [10, 11, 12]
    (finding,) = reader.report.findings
    assert (finding.kind, finding.is_told) == (Tampering.CUT, True)
    assert "entries 6 to 9 are missing at the end" in finding.text
    (aside,) = tmp_path.glob(".aside-audit.sqlite-*")
    assert aside.name in finding.text


def test_a_run_of_which_nothing_was_kept_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.save(1, 1, content(1))
    with pytest.raises(CheckpointMissing, match=r"has no audit: .* One begins when the run is resumed\."):
        AuditReader(CheckpointCatalog(tmp_path, RING), RING)
