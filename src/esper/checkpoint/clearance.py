"""What leaves a run directory: deleted if it was vouched for, set aside if nobody can vouch for it now.

A read error passes, and a key ring can be put back: what could not be read or verified when it was looked at
may be as good as ever. It is renamed out of the way where it must make room, and people decide about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from esper.checkpoint.blobs import BlobShelf
from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.commit import discard_directory, set_aside, sweep
from esper.checkpoint.layout import names_in, step_name, step_number
from esper.checkpoint.retention import Pins, RetentionOutcome, Signature, expendable, signature
from esper.checkpoint.storage import Storage
from esper.nissa import FanOut, Sink, events


class Clearance:
    """Clears away what a run no longer needs; only the holder of the writer lock may use it.

    Args:
        catalog: the checkpoints of the run.
        blobs: the files that they share.
        storage: the system calls.
        sink: who is told, once, what could not be removed.
    """

    def __init__(self, catalog: CheckpointCatalog, blobs: BlobShelf, storage: Storage, sink: Sink) -> None:
        self.pins = Pins(catalog.directory / "pins", storage)
        self.aside: dict[Path, Path] = {}
        """What was set aside: where it was, and where it is now."""
        self.doubted: set[Path] = set()
        """What did not verify when it was looked at: where it must make room, it is set aside."""
        self.held: Counter[int] = Counter()
        """Steps that somebody is reading, and how many do: they stay like pinned ones, but only as long."""
        self._catalog = catalog
        self._blobs = blobs
        self._storage = storage
        self._verified: dict[Path, Signature] = {}
        self._telling = FanOut(sink)

    def begin(self) -> tuple[Path, ...]:
        """Removes what a killed writer left: unfinished files, pins without a checkpoint, unneeded blobs.

        Returns:
            The unfinished files that were removed. What cannot be is told, and no reason not to start.
        """
        checkpoints = list(self._catalog.newest_first())
        swept = self._blobs.sweep()
        kept = [*checkpoints, *(path for path in self._catalog.aside() if path.is_dir())]
        attached = [path / name for path in kept for name in names_in(path) if (path / name).is_dir()]
        for directory in (self._catalog.directory, self.pins.directory, *kept, *attached):
            swept |= sweep(self._storage, directory)
        self._tell(swept.values())
        self._tell(self.pins.keep_only({step_number(path) for path in checkpoints}))
        self._tell(self._collect())
        return tuple(path for path, why in swept.items() if not why)

    def vouch(self, path: Path) -> None:
        """Remembers that a checkpoint verified in full in the state in which it is now."""
        self.doubted.discard(path)
        self._verified[path] = signature(path)

    def doubt(self, paths: Iterable[Path]) -> None:
        """Remembers what did not verify."""
        self.doubted.update(paths)

    def set_aside(self, path: Path) -> None:
        """Renames a directory out of the way, durably."""
        self.aside[path] = set_aside(self._storage, path)
        self.doubted.discard(path)

    def clear_after(self, step: int, *, is_deleting: bool) -> tuple[Path, ...]:
        """Deletes what is later than a step, or sets it aside; what is in doubt is set aside in any case.

        Returns:
            The directories that went, newest first.
        """
        self.doubt(rejection.path for rejection in self._catalog.list().rejected)
        later = [path for path in self._catalog.newest_first() if step_number(path) > step]
        for path in later:
            if is_deleting and path not in self.doubted:
                self._tell([discard_directory(self._storage, path)])
            else:
                self.set_aside(path)
        # also where nothing was left to do: the sync of an earlier attempt may have failed
        self._storage.sync_directory(self._catalog.directory)
        self._tell(self.pins.keep_only({step_number(path) for path in self._catalog.newest_first()}))
        return tuple(later)

    def retain(self, keep_last: int) -> RetentionOutcome:
        """Deletes what is older than the newest `keep_last` that verify, except for what is pinned."""
        paths = {step_number(path): path for path in self._catalog.newest_first()}
        removed: list[Path] = []
        failed: list[str] = []
        try:
            needed = {*self.pins.all(), *(+self.held)}
            for step in expendable(list(paths), self._is_verified, needed, keep_last):
                why = discard_directory(self._storage, paths[step])
                failed.append(why) if why else removed.append(paths[step])
            if removed:
                failed += self._collect()
        except OSError as error:  # the save stands; what could not be removed is tried again at the next
            failed.append(f"{error.filename or self._catalog.run_dir}: {error.strerror}")
        self._tell(failed)
        return RetentionOutcome(tuple(removed), tuple(failed))

    def _is_verified(self, step: int) -> bool:
        path = self._catalog.directory / step_name(step)
        now = signature(path)
        if self._verified.get(path) != now:  # verifying reads every byte, so it is done once for each state
            self._verified.pop(path, None)
            if not self._catalog.verify(path).is_ok:
                return False
            self._verified[path] = now
        return True

    def _collect(self) -> list[str]:
        """Removes blobs that nothing needs, if all that may need one can be read now."""
        manifests = self._catalog.manifests()
        return [] if manifests is None else self._blobs.collect(manifests)

    def _tell(self, reasons: Iterable[str]) -> None:
        """Says once what could not be removed; each start tries again."""
        self._telling.emit_all([events.NotRemoved(why) for why in reasons if why])
