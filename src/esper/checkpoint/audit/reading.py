"""The audit of a run as readers get it: every entry with its seal, and whether it can be believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esper.checkpoint.audit.entry import Entry, Link
from esper.checkpoint.audit.table import AUDIT_FILE, AuditUnreadable, snapshot
from esper.checkpoint.audit.verify import AuditReport, examine
from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.manifest import digest_of
from esper.errors import CheckpointMissing, ContractError
from esper.leyline import encode


@dataclass(frozen=True)
class StoredEntry:
    """One entry with its place, as it stands in the file.

    Attributes:
        number: from 1 on; of what nobody sealed, what it says itself.
        before: digest of the entry before.
        digest: BLAKE3 of its bytes.
        seal: the line that seals it: key id and MAC.
        entry: what it tells.
    """

    number: int
    before: str
    digest: str
    seal: str
    entry: Entry

    def document(self) -> dict[str, Any]:
        """All of it for JSON."""
        place = {"number": self.number, "before": self.before, "digest": self.digest, "seal": self.seal}
        return {**place, **encode(self.entry)}


class AuditReader:
    """The audit of a run, also while the run writes it.

    Args:
        catalog: the checkpoints of the run.
        ring: the keys that are believed.

    Raises:
        CheckpointMissing: there is none, and there has never been one.
    """

    def __init__(self, catalog: CheckpointCatalog, ring: KeyRing) -> None:
        self.path: Path = catalog.run_dir / AUDIT_FILE
        anchors, identity = catalog.anchors(), catalog.run
        if identity is None:
            raise CheckpointMissing(f"Nothing in {catalog.run_dir} tells which run it is of.")
        self.report: AuditReport = examine(self.path, ring, identity.id, anchors)
        if self.report.expected == 0 and not self.path.exists():
            raise CheckpointMissing(
                f"{catalog.run_dir} has no audit: it was made by an Esper that kept none, or nothing has "
                "happened in it yet. One begins when the run is resumed."
            )

    def entries(self) -> Iterator[StoredEntry]:
        """Every row that can be read, in order, believed or not: `report` says which are not."""
        try:
            with snapshot(self.path) as stored:
                for _, sealed in stored.rows():
                    if (entry := _read(sealed)) is not None:
                        yield entry
        except (FileNotFoundError, AuditUnreadable):  # which is in the report
            return


def _read(sealed: bytes) -> StoredEntry | None:
    link = Link.of(sealed)
    try:
        entry = Entry.read(sealed)
    except (ContractError, ValueError):
        return None
    if link is None:
        return None
    seal = sealed[:-1].rpartition(b"\n")[2].decode(errors="replace")
    return StoredEntry(link.number, link.before, digest_of(sealed), seal, entry)
