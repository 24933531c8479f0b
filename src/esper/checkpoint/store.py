"""The checkpoint store: the one writer of a run directory. What it acknowledges survives a power cut."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self

from esper.checkpoint.commit import Begun, commit_directory
from esper.checkpoint.content import FileContent
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.explain import explained
from esper.checkpoint.file_ref import FileRef
from esper.checkpoint.layout import SHARDED_PLAN, step_name
from esper.checkpoint.manifest import FileEntry, Manifest, digest_of
from esper.checkpoint.opening import open_run
from esper.checkpoint.references import (
    AttachmentRef,
    Attachments,
    CheckpointRef,
    Listing,
    Search,
    VerifyReport,
)
from esper.checkpoint.retention import RetentionOutcome
from esper.checkpoint.storage import POSIX, Storage
from esper.errors import CheckpointError
from esper.nissa import LOGGER, Sink

NO_BLOBS: Mapping[str, FileRef] = MappingProxyType({})
SECRET_FILES = frozenset({"importance.safetensors", "trainer.json", "decision.pb", "masks.bin"})
"""What tells how important the parts of a network are and what was decided: always encrypted."""
_WEIGHTS = (".safetensors", ".pt2", SHARDED_PLAN)
_ATTACHMENT_NAME = re.compile(r"[a-z][a-z0-9-]{0,63}")


class CheckpointStore:
    """Saves checkpoints into a run directory and finds the newest good one.

    Opening it takes the writer lock, sweeps what a crash left, and checks whose run directory it is. It may
    be used from several threads; saves happen one after another.

    Args:
        run_dir: the run directory; made if it is not there.
        keyring: the keys that seal and verify manifests (`open_key_ring`).
        model: names the model; a directory of another model is refused. None takes whatever is there.
        keep_last: how many of the newest verified checkpoints retention keeps, beside all pinned ones.
        encrypt_weights: encrypt tensors and programs too, and not only importance and decisions.
        storage: the system calls.
        sink: who is told what nobody needs and cannot be removed.
        clock: seconds since 1970.
        random_bytes: source of the run's id.

    Raises:
        CheckpointError: the directory cannot be written, has another writer, or is of another model.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        keyring: KeyRing,
        model: str | None = None,
        keep_last: int = 3,
        encrypt_weights: bool = False,
        storage: Storage = POSIX,
        sink: Sink = LOGGER,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        if keep_last < 1:
            raise CheckpointError(f"keep_last is {keep_last}; at least 1 checkpoint has to stay.")
        self.run_dir = run_dir
        self.keep_last = keep_last
        self.retention = RetentionOutcome()
        """What retention did after the last save."""
        self._storage = storage
        self._keyring = keyring
        self._encrypt_weights = encrypt_weights
        self._clock = clock
        self._writing = threading.RLock()
        self._built_on: set[Path] = set()
        """Directories in which something was found that is not known to be durable."""
        opened = open_run(run_dir, keyring, model, storage, random_bytes, sink, clock)
        self._lock, self._blobs, self._clearance = opened.lock, opened.blobs, opened.clearance
        self.identity = opened.identity
        """Which run this is, and of which model."""
        self.catalog = opened.catalog
        self.swept = opened.swept
        """What an interrupted writer had left and this start removed."""
        self.audit = opened.audit
        """A sink: what it is told is durable when it returns; every manifest names its last entry."""

    def save(
        self,
        step: int,
        epoch: int,
        files: Mapping[str, FileContent],
        *,
        blobs: Mapping[str, FileRef] = NO_BLOBS,
        pin: str | None = None,
        begun: Begun = lambda *_: {},
    ) -> CheckpointRef:
        """Commits one checkpoint and returns when it is durable; then lets retention remove old ones.

        Args:
            step: training steps done; names the checkpoint and must be new, unless what has that step does
                not verify: that is set aside.
            epoch: epochs done.
            files: file name to content: bytes, a path, tensors (stored as safetensors) or staged tensors.
            blobs: content-addressed files that this checkpoint needs, by kind, from `put_blob`.
            pin: keeps it from retention under this label, such as "baseline".
            begun: writes files of its own into the directory, as several ranks do (`save_sharded`).

        Raises:
            CheckpointError: nothing was committed, the space was given back, older checkpoints are intact.
        """
        target = self.catalog.directory / step_name(step)
        made: list[Manifest] = []

        def seal(entries: Mapping[str, FileEntry]) -> bytes:
            newest = self._newest()
            made.append(
                self._manifest(
                    "checkpoint",
                    target.name,
                    step,
                    epoch,
                    None if newest is None else newest.digest,
                    entries,
                    blobs,
                )
            )
            return made[0].to_bytes(self._keyring)

        def clear_the_way(_: Path) -> None:
            self._settle()
            if pin is not None:
                self._clearance.pins.add(step, pin)
            if target.exists():
                self._clearance.set_aside(target)  # nothing vouches for it, see below

        with self._writing, explained(f"Step {step} was not saved in {self.run_dir}"):
            self.require_writer()
            if target.exists() and self.catalog.verify(target).is_ok:
                raise CheckpointError(
                    f"{target} holds a good checkpoint of step {step}, and a checkpoint is never "
                    f"overwritten. Save under a later step; after going back, withdraw the newer checkpoints "
                    f"first (`withdraw_after`)."
                )
            raw = self._commit(target, files, seal, clear_the_way, begun)
            saved = CheckpointRef(target, made[0], digest_of(raw), self._keyring)
            self._clearance.vouch(target)
            self._blobs.named(made[0])
            self.retention = self._clearance.retain(self.keep_last)
            return saved

    def commit_attachment(
        self, checkpoint: CheckpointRef, name: str, files: Mapping[str, FileContent], *, pin: bool = True
    ) -> AttachmentRef:
        """Commits files to an existing checkpoint by the same protocol, and pins it under `name`.

        The pin stays until `unpin(checkpoint, name)`: what an attachment refers to is never deleted under it.

        Args:
            checkpoint: the base; its manifest's digest goes into the attachment's manifest.
            name: the directory inside the checkpoint, such as "mask-01".
            files: as for `save`.
            pin: False lets the attachment go when its checkpoint goes.

        Raises:
            CheckpointError: nothing was committed; the checkpoint is as it was.
        """
        if not _ATTACHMENT_NAME.fullmatch(name):
            raise CheckpointError(f"Attachment name {name!r} does not fit: a-z, 0-9 and '-' are expected.")
        target = checkpoint.path / name
        made: list[Manifest] = []

        def seal(entries: Mapping[str, FileEntry]) -> bytes:
            base = checkpoint
            made.append(
                self._manifest("attachment", name, base.step, base.epoch, base.digest, entries, NO_BLOBS)
            )
            return made[0].to_bytes(self._keyring)

        def clear_the_way(_: Path) -> None:
            if pin:
                self._clearance.pins.add(checkpoint.step, name)
            if target.exists():
                self._clearance.set_aside(target)
            self._settle(self.catalog.directory)

        with self._writing, explained(f"{name} was not committed to {checkpoint.path}"):
            self.require_writer()
            if self.catalog.at(checkpoint.step) != checkpoint:
                raise CheckpointError(
                    f"{checkpoint.path} is no longer the checkpoint that {name} was made for."
                )
            if any(attached.name == name for attached in self.attachments(checkpoint).found):
                raise CheckpointError(
                    f"{target} is committed already, and what is committed is never overwritten."
                )
            raw = self._commit(target, files, seal, clear_the_way)
            return AttachmentRef(target, made[0], digest_of(raw), self._keyring)

    def put_blob(self, kind: str, content: bytes | Path) -> FileRef:
        """Stores a file under its own digest (`twin/<digest>.pt2`) and returns how to verify it.

        It is believed only through that digest, which belongs into the checkpoints that need it
        (`save(blobs=...)`). Storing the same bytes again costs no space. It goes when no checkpoint needs it
        any more.
        """
        with self._writing, explained(f"A {kind} file was not stored in {self.run_dir}"):
            self.require_writer()
            return self._blobs.put(kind, content)

    @property
    def doubted(self) -> frozenset[Path]:
        """What this store could not vouch for when it looked at it, and will not delete for that reason."""
        return frozenset(self._clearance.doubted)

    @property
    def aside(self) -> Mapping[Path, Path]:
        """What was set aside since this store was opened: where it was, and where it is now."""
        return self._clearance.aside

    def latest(self) -> CheckpointRef | None:
        """The newest checkpoint that verifies in full, or None."""
        return self.search().found

    def search(self) -> Search:
        """The newest checkpoint that verifies in full, and which newer ones were passed over and why."""
        search = self.catalog.search()
        self._clearance.doubt(rejection.path for rejection in search.rejected)
        if search.found is not None:
            self._clearance.vouch(search.found.path)
        return search

    def list(self) -> Listing:
        """All checkpoints, oldest first (see `CheckpointCatalog.list`)."""
        listing = self.catalog.list()
        self._clearance.doubt(rejection.path for rejection in listing.rejected)
        return listing

    def verify(self, checkpoint: CheckpointRef) -> VerifyReport:
        """Reads every byte of one checkpoint."""
        report = self.catalog.verify(checkpoint)
        if not report.is_ok:
            self._clearance.doubt([report.path])
        return report

    def attachments(self, checkpoint: CheckpointRef) -> Attachments:
        """What was committed to a checkpoint later, verified."""
        attachments = self.catalog.attachments(checkpoint)
        if attachments.found:
            self._built_on.add(checkpoint.path)
        return attachments

    def pin(self, checkpoint: CheckpointRef, label: str) -> None:
        """Keeps a checkpoint from retention until `unpin` with the same label."""
        with self._writing, explained(f"{checkpoint.path} was not pinned"):
            self.require_writer()
            self._settle(self.catalog.directory)
            self._clearance.pins.add(checkpoint.step, label)

    def unpin(self, checkpoint: CheckpointRef, label: str) -> None:
        """Takes one pin back; the checkpoint goes with the next save if nothing else keeps it."""
        with self._writing, explained(f"{checkpoint.path} was not unpinned"):
            self.require_writer()
            self._clearance.pins.remove(checkpoint.step, label)

    @contextmanager
    def held(self, checkpoint: CheckpointRef) -> Iterator[None]:
        """Keeps a checkpoint from retention while it is read; nothing is written for that."""
        with self._writing:
            self._clearance.held[checkpoint.step] += 1
        try:
            yield
        finally:
            with self._writing:
                self._clearance.held[checkpoint.step] -= 1

    def pins(self) -> dict[int, frozenset[str]]:
        """The labels of every pinned step."""
        return self._clearance.pins.all()

    def withdraw_after(self, checkpoint: CheckpointRef) -> tuple[Path, ...]:
        """Makes a checkpoint the newest again by deleting all later ones: the end of a rollback.

        Those that this store could not vouch for, now or when it looked at them, are set aside instead.

        Returns:
            The directories that went, newest first; `aside` says which of them still exist, and where.
        """
        return self._clear_after(checkpoint, is_deleting=True)

    def set_aside_after(self, checkpoint: CheckpointRef) -> tuple[Path, ...]:
        """Makes a checkpoint the newest again by setting all later ones aside: where a resume goes back.

        Returns:
            The directories that went, newest first; `aside` says where each is now.
        """
        return self._clear_after(checkpoint, is_deleting=False)

    def close(self) -> None:
        """Lets another writer in. Nothing is lost without it; the lock also ends with the process."""
        try:
            self.audit.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _commit(
        self,
        target: Path,
        files: Mapping[str, FileContent],
        seal: Callable[[Mapping[str, FileEntry]], bytes],
        clear_the_way: Callable[[Path], None],
        begun: Begun = lambda *_: {},
    ) -> bytes:
        def hide(name: str) -> bool:
            return name in SECRET_FILES or (self._encrypt_weights and name.endswith(_WEIGHTS))

        ring, way = self._keyring, clear_the_way
        return commit_directory(
            self._storage, target, files, seal, begun=begun, before_rename=way, hide=hide, ring=ring
        )

    def _manifest(
        self,
        kind: Literal["checkpoint", "attachment"],
        name: str,
        step: int,
        epoch: int,
        parent: str | None,
        entries: Mapping[str, FileEntry],
        blobs: Mapping[str, FileRef],
    ) -> Manifest:
        return Manifest(
            kind=kind,
            run=self.identity,
            name=name,
            step=step,
            epoch=epoch,
            created_seconds=float(self._clock()),
            parent=parent,
            files=dict(entries),
            blobs={key: FileEntry(size=blob.size, blake3=blob.blake3) for key, blob in blobs.items()},
            audit=self.audit.settle(),
        )

    def _newest(self) -> CheckpointRef | None:
        listing = self.catalog.list()
        return listing.checkpoints[-1] if listing.checkpoints else None

    def _settle(self, *more: Path) -> None:
        """Makes durable what was found, before anything that builds on it is acknowledged.

        Its writer may have been killed before the last sync, or that sync may have failed.
        """
        for directory in (*more, *tuple(self._built_on)):  # other threads may add to it meanwhile
            if directory.is_dir():
                self._storage.sync_directory(directory)
            self._built_on.discard(directory)

    def _clear_after(self, checkpoint: CheckpointRef, *, is_deleting: bool) -> tuple[Path, ...]:
        with (
            self._writing,
            explained(f"Checkpoints after step {checkpoint.step} were not all withdrawn"),
        ):
            self.require_writer()
            if (
                checkpoint.is_as_seen
            ):  # by another store, or by one that is closed: retention need not read it
                self._clearance.vouch(checkpoint.path)
            return self._clearance.clear_after(checkpoint.step, is_deleting=is_deleting)

    def require_writer(self) -> None:
        """Raises CheckpointError unless this store may write: it is open, and this process opened it."""
        if self._lock.is_inherited:
            raise CheckpointError(
                f"This store of {self.run_dir} was opened by the process that this one was forked from, and "
                "only that one holds the lock. Save there. Nothing was changed."
            )
        if not self._lock.is_held:
            raise CheckpointError(f"This store of {self.run_dir} was closed. Open a new one to write.")
