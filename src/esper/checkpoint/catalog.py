"""The reading side of the store: list, verify, find the newest good checkpoint. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.file_ref import FileRef, examined
from esper.checkpoint.identity import read_identity
from esper.checkpoint.layout import former_name, names_in, newest_first, step_name
from esper.checkpoint.manifest import (
    FILE_NAME,
    MANIFEST_NAME,
    AuditAnchor,
    Manifest,
    RunIdentity,
    read_manifest,
)
from esper.checkpoint.references import (
    AttachmentRef,
    Attachments,
    CheckpointRef,
    Listing,
    Rejection,
    Search,
    VerifyReport,
)
from esper.errors import CheckpointCorrupt, CheckpointError, CheckpointMissing

_LOOKS = 10
"""How often a writer may be faster than a reader until that gives up."""


def holds_checkpoints(run_dir: Path) -> bool:
    """Whether a run has saved anything there, be it damaged."""
    return any(path.is_dir() for path in (run_dir / "checkpoints").glob("step-*"))


class CheckpointCatalog:
    """Reads the checkpoints of a run directory, also while another process is saving into it.

    Args:
        run_dir: the run directory.
        keyring: the keys that seals are verified with.
        run: only manifests of this run are believed; None asks the directory which run it is of. Runs may
            share a key ring, so that the keys alone do not tell.
    """

    def __init__(self, run_dir: Path, keyring: KeyRing, *, run: RunIdentity | None = None) -> None:
        self.run_dir = run_dir
        self.directory = run_dir / "checkpoints"
        self._keyring = keyring
        self._run = run

    @property
    def run(self) -> RunIdentity | None:
        """The run whose checkpoints are believed; None while nothing here tells which one it is."""
        if self._run is None:
            self._run = read_identity(self.run_dir, self._keyring)
        return self._run

    def list(self) -> Listing:
        """All checkpoints, oldest first; only manifests are read, the files are not verified."""
        checkpoints: list[CheckpointRef] = []
        rejected: list[Rejection] = []
        for path in self.newest_first():
            opened = self._open(path)
            if isinstance(opened, CheckpointRef):
                checkpoints.append(opened)
            else:
                rejected.append(opened)
        return Listing(tuple(reversed(checkpoints)), tuple(reversed(rejected)))

    def search(self) -> Search:
        """Walks back from the highest step to the first checkpoint that verifies in full.

        Looks again where retention of a live writer took all that was listed before it could be read.
        """
        found = self._search()
        for _ in range(_LOOKS):
            if found.found is not None or all(one.path.exists() for one in found.rejected):
                break
            found = self._search()
        return found

    def _search(self) -> Search:
        rejected: list[Rejection] = []
        for path in self.newest_first():
            opened = self._open(path)
            if isinstance(opened, Rejection):
                rejected.append(opened)
                continue
            report = self.verify(opened)
            if report.is_ok:
                return Search(opened.seen_by(report), tuple(rejected))
            rejected.append(Rejection(path, "; ".join(report.problems)))
        return Search(None, tuple(rejected))

    def latest(self) -> CheckpointRef | None:
        """The newest checkpoint that verifies in full; `search` also says what was passed over and why."""
        return self.search().found

    def at(self, step: int) -> CheckpointRef:
        """The checkpoint of one step, its manifest verified.

        Raises:
            CheckpointMissing: there is none; the message names the steps there are.
            CheckpointCorrupt: its manifest does not verify.
        """
        path = self.directory / step_name(step)
        if not path.is_dir():
            steps = [ref.step for ref in self.list().checkpoints]
            raise CheckpointMissing(
                f"No checkpoint of step {step} in {self.directory}. "
                + (
                    f"There are: {', '.join(map(str, steps[-12:]))}."
                    if steps
                    else "There is none at all yet."
                )
            )
        opened = self._open(path)
        if isinstance(opened, Rejection):
            raise CheckpointCorrupt(
                f"{path}: {opened.reason}. Use another step; `esper verify` checks them all."
            )
        return opened

    def verify(self, checkpoint: CheckpointRef | Path) -> VerifyReport:
        """Reads every byte of one checkpoint: seal, sizes, digests, and the blobs that it needs."""
        path = checkpoint if isinstance(checkpoint, Path) else checkpoint.path
        opened = self._open(path)
        if isinstance(opened, Rejection):
            return VerifyReport(path, (opened.reason,), (), 0)
        if isinstance(checkpoint, CheckpointRef) and checkpoint.digest != opened.digest:
            return VerifyReport(path, ("another checkpoint has taken its place",), (), 0)
        files = [*opened.files.values(), *opened.blobs(self.run_dir).values()]
        problems, seen = examined(files)
        return VerifyReport(path, problems, self._unlisted(opened), sum(file.size for file in files), seen)

    def attachments(self, checkpoint: CheckpointRef) -> Attachments:
        """What was committed to a checkpoint later, every byte verified, in order of name."""
        found: list[AttachmentRef] = []
        rejected: list[Rejection] = []
        for path in _attached(checkpoint):
            opened = self._open_attachment(path, checkpoint)
            if isinstance(opened, AttachmentRef):
                found.append(opened)
            else:
                rejected.append(opened)
        return Attachments(tuple(found), tuple(rejected))

    def blob(self, checkpoint: CheckpointRef, kind: str) -> FileRef:
        """The content-addressed file of a kind that a checkpoint needs, such as its twin, after verifying it.

        Raises:
            CheckpointMissing: this checkpoint needs none of that kind.
            CheckpointCorrupt: the file is gone or altered.
        """
        if kind not in checkpoint.manifest.blobs:
            kinds = ", ".join(sorted(checkpoint.manifest.blobs)) or "none at all"
            raise CheckpointMissing(f"{checkpoint.path} names no {kind!r} file; it names {kinds}.")
        file = checkpoint.blobs(self.run_dir)[kind]
        file.verify()
        return file

    def newest_first(self) -> Iterator[Path]:
        """Every checkpoint directory from the highest step down, whatever state it is in."""
        return newest_first(self.directory)

    def aside(self) -> tuple[Path, ...]:
        """What was set aside because nobody could vouch for it at that time, by name."""
        paths = (self.directory / name for name in names_in(self.directory))
        return tuple(path for path in paths if former_name(path) is not None)

    def manifests(self) -> tuple[Manifest, ...] | None:
        """Those of all checkpoints, of whatever run, and of what was set aside; None if one cannot be had."""
        commits = [(path, path.name) for path in self.newest_first()]
        commits += [(path, former_name(path) or "") for path in self.aside() if path.is_dir()]
        try:
            return tuple(read_manifest(path, self._keyring, "checkpoint", name)[0] for path, name in commits)
        except CheckpointCorrupt:
            return None

    def anchors(self) -> tuple[tuple[str, AuditAnchor], ...]:
        """The entries of the audit that checkpoints, and what was committed to them, name."""
        checkpoints = self.list().checkpoints
        named = [(ref.path.name, ref.manifest.audit) for ref in checkpoints]
        for ref in checkpoints:
            attached = (self._look_attached(path, ref) for path in _attached(ref))
            named += [
                (f"{ref.path.name}/{one.name}", one.manifest.audit)
                for one in attached
                if isinstance(one, AttachmentRef)
            ]
        return tuple((name, anchor) for name, anchor in named if anchor is not None)

    def _open(self, path: Path) -> CheckpointRef | Rejection:
        opened = self._look(path)
        return opened if isinstance(opened, CheckpointRef) else self._look(path)  # an error may pass

    def _look(self, path: Path) -> CheckpointRef | Rejection:
        try:
            manifest, digest = read_manifest(path, self._keyring, "checkpoint")
        except CheckpointCorrupt as error:
            return Rejection(path, str(error))
        if step_name(manifest.step) != path.name:
            return Rejection(path, f"its manifest is of step {manifest.step}")
        if self.run is not None and manifest.run.id != self.run.id:
            return Rejection(
                path, f"it was saved by another run ({manifest.run}), not by this one ({self.run})"
            )
        return CheckpointRef(path, manifest, digest, self._keyring)

    def _open_attachment(self, path: Path, base: CheckpointRef) -> AttachmentRef | Rejection:
        opened = self._look_attached(path, base)
        if isinstance(opened, Rejection):
            return opened
        problems, seen = examined(opened.files.values())
        return Rejection(path, "; ".join(problems)) if problems else replace(opened, seen=seen)

    def _look_attached(self, path: Path, base: CheckpointRef) -> AttachmentRef | Rejection:
        """What its manifest says; the files are not read."""
        try:
            manifest, digest = read_manifest(path, self._keyring, "attachment")
        except CheckpointCorrupt as error:
            return Rejection(path, str(error))
        if manifest.parent != base.digest:
            return Rejection(path, "it was committed to another checkpoint than the one it lies in")
        return AttachmentRef(path, manifest, digest, self._keyring)

    def _unlisted(self, checkpoint: CheckpointRef) -> tuple[str, ...]:
        try:
            names = set(names_in(checkpoint.path)) - {MANIFEST_NAME, *checkpoint.manifest.files}
        except CheckpointError:  # every file that is listed could be read, and the others do not matter
            return ()
        return tuple(n for n in sorted(names) if not (checkpoint.path / n / MANIFEST_NAME).is_file())


def _attached(checkpoint: CheckpointRef) -> Iterator[Path]:
    """The directories in a checkpoint, by name."""
    paths = (checkpoint.path / name for name in names_in(checkpoint.path) if FILE_NAME.fullmatch(name))
    return (path for path in paths if path.is_dir())
