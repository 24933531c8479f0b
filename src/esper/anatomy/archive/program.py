"""Exported programs to bytes and back. What is read back may be anybody's: nothing in it gets to run."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._export.serde import schema
from torch._export.serde.serialize import ExportedProgramDeserializer, SerializeError
from torch.export import ExportedProgram

from esper.anatomy.archive.fields import MAJOR_VERSION, read
from esper.anatomy.archive.members import CONSTANTS, MODEL, WEIGHTS, extras, json_of, members
from esper.anatomy.archive.names import NotAdmitted
from esper.anatomy.archive.payload import Slot, slots, tensors
from esper.anatomy.graph import exporting, standalone
from esper.errors import CheckpointCorrupt, CheckpointError
from esper.garbage import uncollected

_WEIGHT, _CONSTANT = "data/weights/weight_", "data/constants/tensor_"


@dataclass(frozen=True)
class StoredProgram:
    """A program, and the texts that were stored beside it."""

    program: ExportedProgram
    extra: Mapping[str, str]


@dataclass(frozen=True)
class _Archive:
    """What an archive holds, all of it admitted; nothing was built of it yet."""

    program: schema.ExportedProgram
    content: Mapping[str, memoryview]
    weights: Mapping[str, Slot]
    constants: Mapping[str, Slot]
    extra: Mapping[str, str]


def write_program(
    program: ExportedProgram,
    extra: Mapping[str, str] | None = None,
    *,
    weights: Mapping[str, Tensor] | None = None,
) -> bytes:
    """A program as an archive that `read_program` takes back.

    Args:
        program: any exported program; its sample inputs are not stored, they would be pickled.
        extra: texts to be kept beside it, by the names of JSON files.
        weights: what is stored in place of the program's own parameters and buffers.

    Raises:
        CheckpointError: it would not be taken back; what is in its way is named.
    """
    state, inputs = program._state_dict, program._example_inputs
    buffer = io.BytesIO()
    try:
        program._state_dict = state if weights is None else dict(weights)
        program._example_inputs = None
        with uncollected(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how torch picks one of several names of a tensor
            torch.export.save(program, buffer, extra_files=dict(extra or {}))
    except SerializeError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"This network cannot be stored as a program: {reason} Nothing was written."
        ) from error
    finally:
        program._state_dict, program._example_inputs = state, inputs
    try:
        _admitted(buffer.getvalue())
    except NotAdmitted as error:
        raise CheckpointError(
            f"This network cannot be stored as a program that is safe to load: it holds {error}. Nothing was "
            "stored."
        ) from error
    return buffer.getvalue()


def read_program(data: bytes) -> StoredProgram:
    """The program in an archive.

    Raises:
        CheckpointCorrupt: it is no archive of a program, or holds what could do more than compute.
    """
    archive = _of_anybody(data)
    with _fitting_together():
        return StoredProgram(_built(archive), archive.extra)


def read_module(data: bytes) -> Callable[..., Any]:
    """The program in an archive, to be called as the network was.

    Raises:
        CheckpointCorrupt: it is no archive of a program, or holds what could do more than compute.
    """
    archive = _of_anybody(data)
    with _fitting_together():
        return standalone(_built(archive))


def _admitted(data: bytes) -> _Archive:
    content = members(data)
    program = read(schema.ExportedProgram, json_of(content, MODEL))
    version = program.schema_version.major
    if version != MAJOR_VERSION:
        raise NotAdmitted(f"version {version} of torch's format, where version {MAJOR_VERSION} is read")
    if not program.verifiers:
        raise NotAdmitted("no dialect of its operators")
    weights = read(schema.PayloadConfig, json_of(content, WEIGHTS))
    constants = read(schema.PayloadConfig, json_of(content, CONSTANTS))
    return _Archive(
        program,
        content,
        slots(weights, content, _WEIGHT),
        slots(constants, content, _CONSTANT),
        extras(content),
    )


def _of_anybody(data: bytes) -> _Archive:
    try:
        return _admitted(data)
    except NotAdmitted as error:
        raise CheckpointCorrupt(
            f"This is no program that Esper loads: it holds {error}. Nothing of it was loaded or "
            "run. Load what session.finish or Compacted.save stored, or an archive without sample inputs, "
            "objects and pickle."
        ) from error


def _built(archive: _Archive) -> ExportedProgram:
    return ExportedProgramDeserializer().deserialize(
        archive.program,
        tensors(archive.weights, archive.content),
        tensors(archive.constants, archive.content),
    )


@contextmanager
def _fitting_together() -> Iterator[None]:
    """What torch says, in many ways, of parts that are each admitted and do not belong together."""
    try:
        with exporting():
            yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CheckpointCorrupt(
            f"The parts of this program do not fit together ({type(error).__name__}: {reason}). It was "
            f"damaged, or written by another torch than {torch.__version__}. Store it again."
        ) from error
