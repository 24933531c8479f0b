"""Whether an audit is what was written, and if not, what was done to it: six kinds of tampering by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from esper.checkpoint.audit.entry import NOTHING, PURPOSE, Entry, Link
from esper.checkpoint.audit.table import AuditSnapshot, AuditUnreadable, snapshot
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.manifest import AuditAnchor, digest_of
from esper.errors import CheckpointCorrupt
from esper.nissa import events, kind_of

HEAD_PURPOSE = "esper audit head"
_MOST = 12
"""Numbers that one finding lists."""
Anchors = Sequence[tuple[str, AuditAnchor]]
"""Entries that sealed manifests name, each with the name of its checkpoint."""


class Tampering(StrEnum):
    """What was done to an audit."""

    EDITED = "edited"
    """An entry, or the head, has other bytes than were sealed."""
    DELETED = "deleted"
    """An entry is missing between others."""
    INSERTED = "inserted"
    """There is an entry that nobody wrote there: forged, or a copy."""
    REORDERED = "reordered"
    """Entries stand in another order than they were written in."""
    CUT = "cut"
    """The last entries are missing, or all."""
    SWAPPED = "swapped"
    """Entries are of another run, or of another history of this one."""
    UNREADABLE = "unreadable"
    """The file is no audit, or damaged as a whole."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; `is_told` says that the audit itself tells of it, in its first entry."""

    kind: Tampering
    text: str
    is_told: bool = False


@dataclass(frozen=True)
class AuditReport:
    """What is known of an audit after every byte of it was read.

    Attributes:
        entries: how many there are.
        last: the last entry; None where there is none that can be believed.
        expected: number of the last entry that head or manifests tell of, at least that of `last`.
        anchors: the entries that manifests name.
        findings: what is wrong.
    """

    entries: int
    last: AuditAnchor | None
    expected: int
    anchors: Anchors
    findings: tuple[Finding, ...]

    @property
    def can_go_on(self) -> bool:
        """Nothing is wrong that the audit does not tell itself."""
        return all(finding.is_told for finding in self.findings)


@dataclass(frozen=True)
class _Row:
    place: int
    link: Link | None
    digest: str
    is_believed: bool

    @property
    def number(self) -> int:
        """The number that a believed row says."""
        return self.link.number if self.link else 0

    @property
    def before(self) -> str:
        """The digest that a believed row names."""
        return self.link.before if self.link else ""


def head_text(run: str, last: AuditAnchor) -> bytes:
    """What the head seals: how far the audit goes."""
    return f"{run} {last.number} {last.digest}".encode()


def examine(path: Path, ring: KeyRing, run: str, anchors: Anchors) -> AuditReport:
    """Reads an audit and holds it against its seals, its links, its head and the manifests of checkpoints.

    Args:
        path: the file; a missing one is fine if no manifest names an entry.
        ring: the keys that are believed.
        run: id of the run.
        anchors: read before, so that a run that goes on meanwhile has written every entry that they name.
    """
    newest = max((anchor.number for _, anchor in anchors), default=0)
    try:
        with snapshot(path) as stored:
            head = _Head.read(stored.head(), ring, run)
            rows, first = _rows(stored, ring, head)
            if not rows and stored.head() is None:
                raise FileNotFoundError  # its maker was killed before the first entry
    except FileNotFoundError:
        state = "empty" if path.exists() else "missing"
        what = f"{path.name} is {state}, and {_teller(anchors, newest)} was saved after entry {newest}"
        gone = (Finding(Tampering.CUT, what),) if newest else ()
        return AuditReport(0, None, newest, anchors, gone)
    except AuditUnreadable as error:
        return AuditReport(0, None, newest, anchors, (Finding(Tampering.UNREADABLE, str(error)),))
    own = [row for row in rows if row.link is None or row.link.run == run]
    findings = _foreign(rows, run)
    believed = [row for row in own if row.is_believed and row.link is not None]
    expected = max(newest, head.number, max((row.number for row in believed), default=0))
    if rows and not own:  # nothing more can be said of it
        return AuditReport(len(rows), None, expected, anchors, findings)
    begin, told = _beginning(believed, first)
    findings += told
    findings += _order(believed)
    findings += _missing(own, believed, begin, expected, anchors)
    findings += _breaks(believed, head, anchors, begin)
    last = max(believed, key=lambda row: row.number, default=None)
    anchor = None if last is None else AuditAnchor(number=last.number, digest=last.digest)
    return AuditReport(len(rows), anchor, expected, anchors, findings)


@dataclass(frozen=True)
class _Head:
    """How far an audit goes, as its sealed head says; `problem` where that cannot be believed."""

    last: AuditAnchor | None = None
    problem: str = ""

    @property
    def number(self) -> int:
        return 0 if self.last is None else self.last.number

    @classmethod
    def read(cls, sealed: bytes | None, ring: KeyRing, run: str) -> _Head:
        if sealed is None:
            return cls(problem="the head, which says how far the audit goes, is missing")
        try:
            of, number, digest = ring.unseal(HEAD_PURPOSE, sealed).decode().split(" ")
        except CheckpointCorrupt as error:
            return cls(problem=f"the head cannot be believed: {error}")
        if of != run:
            return cls(problem=f"the head is of run {of}")
        return cls(AuditAnchor(number=int(number), digest=digest))


def _rows(stored: AuditSnapshot, ring: KeyRing, head: _Head) -> tuple[list[_Row], Entry | None]:
    """Every row in order, and the first entry if it is believed.

    A row is believed by its own seal, or where that key is not believed any more, because a later row that
    is believed names its digest.
    """
    rows: list[_Row] = []
    wanted, first = "" if head.last is None else head.last.digest, None
    for place, sealed in stored.rows(newest_first=True):
        digest, link = digest_of(sealed), Link.of(sealed)
        try:
            ring.unseal(PURPOSE, sealed)
            is_believed = link is not None
        except CheckpointCorrupt:
            is_believed = link is not None and digest == wanted
        rows.append(_Row(place, link, digest, is_believed))
        if is_believed and link is not None:
            wanted = link.before
            first = sealed
    rows.reverse()
    return rows, None if first is None else Entry.read(first)


def _foreign(rows: Iterable[_Row], run: str) -> tuple[Finding, ...]:
    others: dict[str, list[int]] = {}
    for row in rows:
        if row.link is not None and row.link.run != run:
            others.setdefault(row.link.run, []).append(row.place)
    return tuple(
        Finding(Tampering.SWAPPED, f"{_named(places)} of run {other}, and this is run {run}")
        for other, places in others.items()
    )


def _beginning(believed: Sequence[_Row], first: Entry | None) -> tuple[int, tuple[Finding, ...]]:
    """The number that the audit begins with, and what its first entry tells if that is not 1."""
    if not believed or first is None or first.kind != kind_of(events.AuditReplaced):
        return 1, ()
    begin = believed[0].number
    gone = f"entries up to {begin - 1} are not in this file" if begin > 1 else "another file was there before"
    return begin, (Finding(Tampering.CUT, f"{gone}. Its first entry says: {first.text}", is_told=True),)


def _order(believed: Sequence[_Row]) -> tuple[Finding, ...]:
    """Copies, and what stands in another order than it was written in."""
    findings, places = [], {}
    for row in believed:
        if row.number in places:
            what = f"the row at place {row.place} is a copy of entry {row.number}"
            findings.append(Finding(Tampering.INSERTED, what))
        else:
            places[row.number] = row.place
    numbers = list(places)
    moved = [is_now for is_now, was in zip(numbers, sorted(numbers), strict=True) if is_now != was]
    if moved:
        what = f"{_named(sorted(moved), 'entry')} in another order than they were written in"
        findings.append(Finding(Tampering.REORDERED, what))
    return tuple(findings)


def _missing(
    own: Sequence[_Row], believed: Sequence[_Row], begin: int, expected: int, anchors: Anchors
) -> tuple[Finding, ...]:
    """Rows that nobody sealed and numbers that no row has: which of them belong together."""
    present = {row.number for row in believed}
    absent = {number for number in range(begin, expected + 1) if number not in present}
    edited, inserted, before = [], [], begin - 1
    for row in own:
        before = row.number if row.is_believed else before + 1
        if row.is_believed:
            continue
        if before in absent:  # it stands where an entry is missing: it is that one, with other bytes
            absent.discard(before)
            edited.append(before)
        else:
            inserted.append(row.place)
            before -= 1
    top = max([*present, *edited], default=begin - 1)
    findings = [
        Finding(Tampering.EDITED, f"entry {number} has other bytes than were sealed") for number in edited
    ]
    findings += [
        Finding(Tampering.INSERTED, f"nobody sealed the row at place {place}, and no entry is missing there")
        for place in inserted
    ]
    if inner := sorted(number for number in absent if number < top):
        findings.append(Finding(Tampering.DELETED, f"{_named(inner, 'entry')} missing"))
    if tail := sorted(number for number in absent if number > top):
        teller = _teller(anchors, expected) or "the head"
        what = f"{_named(tail, 'entry')} missing at the end: {teller} tells of {expected}"
        findings.append(Finding(Tampering.CUT, what))
    return tuple(findings)


def _breaks(believed: Sequence[_Row], head: _Head, anchors: Anchors, begin: int) -> tuple[Finding, ...]:
    """Entries that are sealed well and not those that their successors, the head or manifests name."""
    by_number = {row.number: row for row in believed}
    findings = []
    if head.problem:
        findings.append(Finding(Tampering.EDITED, head.problem))
    elif head.number < max(by_number, default=0):
        what = f"the head tells of {head.number} entries, and there are more: it was put back"
        findings.append(Finding(Tampering.EDITED, what))
    for number, row in by_number.items():
        previous = by_number.get(number - 1)
        if previous is not None and row.before not in (previous.digest, NOTHING):
            what = f"entry {number} was written after another entry {number - 1} than this: a second history"
            findings.append(Finding(Tampering.SWAPPED, what))
    of_head = [("the head", head.last)] if head.last else []
    for teller, anchor in (*anchors, *of_head):
        row_there = by_number.get(anchor.number)
        if anchor.number >= begin and row_there is not None and row_there.digest != anchor.digest:
            what = f"entry {anchor.number} is another one than {teller} names: a second history"
            findings.append(Finding(Tampering.SWAPPED, what))
    return tuple(findings)


def _teller(anchors: Anchors, number: int) -> str:
    return next((name for name, anchor in anchors if anchor.number == number), "")


def _named(numbers: Sequence[int], what: str = "row") -> str:
    """`entries 3 to 5 are` and the like; `numbers` never fall."""
    several = {"row": "rows", "entry": "entries"}[what]
    if len(numbers) == 1:
        return f"{what} {numbers[0]} is"
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{several} {numbers[0]} to {numbers[-1]} are"
    rest = " and others" if len(numbers) > _MOST else ""
    return f"{several} {', '.join(map(str, numbers[:_MOST]))}{rest} are"
