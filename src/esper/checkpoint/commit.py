"""The commit protocol: a directory appears whole and durable under its name, or not at all.

1. Make `.tmp-<name>-...`. 2. Write every file exclusively, mode 0600, synced, hashed while written. 3.
Write the manifest last, synced. 4. Sync the directory. 5. Rename it to its name, never onto another. 6. Sync
the parent. Only then is it acknowledged. Any error ends this commit for good: a failed sync is never retried
on the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from esper.checkpoint.content import FileContent, Stream, stream
from esper.checkpoint.crypto import KeyRing
from esper.checkpoint.digests import SHARD_BYTES
from esper.checkpoint.encrypted import FileKey, NewKey, sealed_size
from esper.checkpoint.layout import (
    DELETED_PREFIX,
    TEMPORARY_PREFIX,
    aside_path,
    deleted_path,
    temporary_path,
)
from esper.checkpoint.manifest import MANIFEST_NAME, FileEntry
from esper.checkpoint.storage import Storage, remove_tree, try_to_remove
from esper.checkpoint.writing import write_file

KeyFor = Callable[[str], NewKey | None]
"""A new key for a file of this name; None: it is not encrypted."""
Begun = Callable[[Path, KeyFor], Mapping[str, FileEntry]]
"""Is told the directory in the making while that is empty, and which files are encrypted; returns the files
that it has written there."""


def commit_directory(
    storage: Storage,
    target: Path,
    files: Mapping[str, FileContent],
    seal: Callable[[Mapping[str, FileEntry]], bytes],
    *,
    begun: Begun = lambda *_: {},
    before_rename: Callable[[Path], None] = lambda _: None,
    last: str = MANIFEST_NAME,
    hide: Callable[[str], bool] = lambda _: False,
    ring: KeyRing | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> bytes:
    """Commits `files` as the directory `target`.

    Args:
        storage: the system calls.
        target: the name; it must be free.
        files: file name to content.
        seal: makes the manifest's bytes from size and digest of every file.
        begun: writes files of its own, durably, or does without.
        before_rename: is told it when everything in it is durable but not yet visible; it may refuse.
        last: the name of the manifest.
        hide: which files are encrypted.
        ring: wraps their keys.
        shard_bytes: how the digests of files are cut.

    Returns:
        The manifest's bytes.

    Raises:
        OSError: nothing was committed and the space was given back. Where even that failed, a note on the
            error says what is left; the next start sweeps it.
    """

    def key_for(name: str) -> NewKey | None:
        return NewKey.fresh(ring) if ring is not None and hide(name) else None

    temporary = reached = temporary_path(target)
    try:
        storage.make_directory(temporary)
        entries = dict(begun(temporary, key_for))
        for name, content in files.items():
            entries[name] = write_listed(storage, temporary / name, content, key_for(name), shard_bytes)
        manifest = seal(entries)
        write_file(storage, temporary / last, stream(manifest))
        storage.sync_directory(temporary)
        before_rename(temporary)
        storage.rename(temporary, target)
        reached = target
        storage.sync_directory(target.parent)
    except BaseException as error:
        _take_back(storage, temporary, reached, error)
        raise
    return manifest


def write_listed(
    storage: Storage,
    path: Path,
    content: FileContent,
    new_key: NewKey | None,
    shard_bytes: int = SHARD_BYTES,
) -> FileEntry:
    """Writes one file, encrypted if there is a key; durable on return.

    Returns:
        What a manifest says of it.

    Raises:
        OSError: as for `write_file`.
    """
    plain = stream(content)
    if new_key is None:
        written = write_file(storage, path, plain, shard_bytes=shard_bytes)
    else:
        pieces = FileKey.from_text(new_key.text).encrypt(plain.pieces)
        sealed, header = Stream(sealed_size(plain.size), pieces), new_key.header
        written = write_file(storage, path, sealed, header=header, shard_bytes=shard_bytes, is_lasting=False)
    digest, is_encrypted = written.digest, new_key is not None
    return FileEntry(size=written.size, blake3=digest.blake3, is_encrypted=is_encrypted, shards=digest.shards)


def discard_directory(storage: Storage, path: Path) -> str:
    """Renames a directory away, makes that durable, then deletes it: it is never seen half deleted.

    Returns:
        Why some of it could not be deleted, or nothing; what is left has lost its name, and is swept later.
    """
    grave = deleted_path(path)
    storage.rename(path, grave)
    storage.sync_directory(path.parent)
    return try_to_remove(storage, grave)


def set_aside(storage: Storage, path: Path) -> Path:
    """Renames a directory that nobody could vouch for out of the way, durably; returns where it is now."""
    aside = aside_path(path)
    storage.rename(path, aside)
    storage.sync_directory(path.parent)
    return aside


def sweep(storage: Storage, directory: Path) -> dict[Path, str]:
    """Removes what interrupted saves and deletions left; only the holder of the writer lock may call this.

    Returns:
        What was found, and why it could not be removed; "" where it was.
    """
    try:
        names = storage.list(directory)
    except (
        OSError
    ):  # nobody knows of debris there, and who needs what else is there tells that it is not to be had
        return {}
    debris = [directory / name for name in names if name.startswith((TEMPORARY_PREFIX, DELETED_PREFIX))]
    return {path: try_to_remove(storage, path) for path in debris}


def _take_back(storage: Storage, temporary: Path, reached: Path, error: BaseException) -> None:
    try:
        if reached != temporary:
            storage.rename(reached, temporary)
        if temporary.exists():
            remove_tree(storage, temporary)
    except OSError as second:
        error.add_note(
            f"Cleaning up failed too ({second.strerror}): {reached} is left and will be swept at the next "
            f"start."
        )
