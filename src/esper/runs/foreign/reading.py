"""What the confined process does: reads one file of a stranger, and yields what is safe of it.

The answer is eight bytes with the length of a JSON document, the document, and the bytes of one file:
tensors, or a program.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import torch

from esper.anatomy.archive import read_program, write_program
from esper.checkpoint import file_pieces
from esper.errors import CheckpointCorrupt, CheckpointError
from esper.runs.foreign.plain import Parts

LENGTH = struct.Struct("<Q")
TENSORS, PROGRAM = "tensors", "program"
NO_TENSORS, NO_PROGRAM = "it is no file of torch.save", "it is a program that holds"
"""What is said of a file that is nothing of the kind, and of a program that is not admitted."""
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PROGRAM_MARK = "/archive_format"
_SAMPLES = "/data/sample_inputs/model.pt"
_NEEDS = re.compile(r"GLOBAL ([\w.]+)")


def pieces(file: BinaryIO) -> Iterator[bytes | memoryview]:
    """The answer, piece by piece.

    Args:
        file: open at its beginning.

    Raises:
        CheckpointError: it is nothing that is imported, and why.
    """
    facts, content = _program(file) if _is_program(file) else _tensors(file)
    document = json.dumps(facts, allow_nan=False).encode()
    yield LENGTH.pack(len(document)) + document
    yield from content


def _is_program(file: BinaryIO) -> bool:
    is_archive = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    if not is_archive:
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(_PROGRAM_MARK) for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"it begins like an archive and is none ({error}): it was cut short") from error
    finally:
        file.seek(0)


def _tensors(file: BinaryIO) -> tuple[dict[str, Any], Iterator[memoryview]]:
    if os.fstat(file.fileno()).st_size == 0:
        raise CheckpointError(f"{NO_TENSORS}: it is empty")
    begins = file.read(len(_ZIP))
    file.seek(0)
    if begins != _ZIP and not begins.startswith(_PICKLE):
        raise CheckpointError(f"{NO_TENSORS}, nor of torch.export.save: it begins like neither")
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(_refusal(error)) from error
    parts = Parts()
    rest = parts.taken_apart(held)
    facts = {
        "kind": TENSORS,
        "tensors": len(parts.tensors),
        "content": rest,
        "was": parts.was,
        "left_out": parts.left_out,
        "tied": parts.tied(),
    }
    return facts, file_pieces(parts.tensors)


def _refusal(error: Exception) -> str:
    """Why torch refused a file. Its own words advise to unpickle without a check: not passed on."""
    text = str(error)
    needs = _NEEDS.search(text)
    if needs is not None:
        return f"it holds an object that only code can build ({needs[1][:100]})"
    if "TorchScript" in text:
        return "it is a TorchScript archive; store the network by torch.export.save instead"
    if "weights_only" in text or "nsupported" in text:
        return f"{NO_TENSORS}, or was damaged"
    return f"{NO_TENSORS}, or was damaged ({type(error).__name__}: {text[:200]})"


def _program(file: BinaryIO) -> tuple[dict[str, Any], Iterator[bytes]]:
    data, left_out = _without_samples(file)
    try:
        stored = read_program(data)
    except CheckpointCorrupt as error:  # who reads a file of a stranger needs no advice about files of ours
        raise CheckpointError(f"{NO_PROGRAM} {error.__cause__ or error}") from error
    written = write_program(stored.program, stored.extra)
    return {"kind": PROGRAM, "tensors": len(stored.program.state_dict), "left_out": left_out}, iter([written])


def _without_samples(file: BinaryIO) -> tuple[bytes, dict[str, str]]:
    """The archive without its sample inputs, which torch pickles and a program does not need."""
    kept, left_out = io.BytesIO(), {}
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(kept, "w") as new:
        for entry in old.infolist():
            if entry.filename.endswith(_SAMPLES):
                left_out[entry.filename] = "sample inputs, which are pickled"
            else:
                new.writestr(zipfile.ZipInfo(entry.filename), old.read(entry))
    return kept.getvalue(), left_out
