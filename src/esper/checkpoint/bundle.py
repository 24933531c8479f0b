"""A directory of files that leaves its run: durable as a whole, and verified without any key.

Beside the files lies `BLAKE3SUMS`, one line for each, as the tool `b3sum` writes and checks them. It tells
damage from what was saved; it does not tell who saved it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from esper.checkpoint.commit import commit_directory
from esper.checkpoint.content import FileContent
from esper.checkpoint.manifest import FILE_NAME, FileEntry
from esper.checkpoint.reading import read_regular
from esper.checkpoint.references import FileRef
from esper.checkpoint.storage import PosixStorage, make_directories
from esper.errors import CheckpointCorrupt

SUMS_FILE = "BLAKE3SUMS"
_LINE = re.compile(rf"([0-9a-f]{{64}})  ({FILE_NAME.pattern})")
_MAX_BYTES = 1 << 20


class SharedStorage(PosixStorage):
    """For what others may read: the umask alone decides."""

    file_mode = 0o666
    directory_mode = 0o777


def write_bundle(directory: Path, files: Mapping[str, FileContent]) -> None:
    """Commits files as one directory, by the protocol of checkpoints.

    Args:
        directory: a name that is free, or an empty directory.
        files: file name to content.

    Raises:
        OSError: nothing was written.
    """
    storage = SharedStorage()

    def clear_the_way() -> None:
        if directory.exists():
            storage.remove_directory(directory)  # empty, or this fails

    make_directories(storage, directory.parent)
    commit_directory(storage, directory, files, _sums, before_rename=clear_the_way, last=SUMS_FILE)


def bundled(directory: Path, name: str) -> FileRef | None:
    """A file of a bundle by its digest; None if there are no digests: it was never a bundle.

    Raises:
        CheckpointCorrupt: the list of digests is damaged, or the file is missing in it or beside it.
    """
    path = directory / SUMS_FILE
    try:
        text = read_regular(path, _MAX_BYTES).decode()
        lines = [_LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
        size = (directory / name).stat().st_size
    except FileNotFoundError:
        if not path.exists():
            return None
        raise CheckpointCorrupt(f"{directory} holds no {name}, and {SUMS_FILE} tells that it did.") from None
    except (OSError, ValueError) as error:
        raise CheckpointCorrupt(f"{path} cannot be read ({error}). Copy the directory again.") from error
    digests = {line[2]: line[1] for line in lines if line is not None}
    if None in lines or not text.endswith("\n") or name not in digests:
        raise CheckpointCorrupt(
            f"{path} is damaged: it does not hold one digest for each file. Copy the directory again from "
            "where it was saved, or save it again."
        )
    return FileRef(directory / name, size, digests[name])


def _sums(entries: Mapping[str, FileEntry]) -> bytes:
    return "".join(f"{entry.blake3}  {name}\n" for name, entry in sorted(entries.items())).encode()
