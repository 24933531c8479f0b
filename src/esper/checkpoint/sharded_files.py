"""How what several ranks hold parts of lies in a checkpoint: a storage for `torch.distributed.checkpoint`.

That library plans who writes and reads which part, and asks a writer and a reader for the bytes. Its own ones
pickle. Here every rank writes one safetensors file, hashed while it is written and synced, and the plan is
JSON with a closed schema. Values that are no tensors are JSON too, as bytes in the file of a rank.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from esper.checkpoint.codec import decode, encode, from_json, to_json
from esper.checkpoint.commit import write_listed
from esper.checkpoint.encrypted import NewKey
from esper.checkpoint.file_ref import FileRef, load_tensors
from esper.checkpoint.layout import SHARDED_PLAN
from esper.checkpoint.manifest import FileEntry
from esper.checkpoint.storage import Storage
from esper.checkpoint.tensor_file import TYPE_NAMES
from esper.errors import CheckpointCorrupt, CheckpointError

_TYPES = {name: dtype for dtype, name in TYPE_NAMES.items()}
_Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    """A box of a tensor (corner and edges), or a value that is no tensor: in which file, under which name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    file: str
    name: str
    offsets: tuple[_Count, ...] = ()
    sizes: tuple[_Count, ...] = ()


class _Value(BaseModel):
    """A tensor, its type and whole shape, and its parts; no type: a value that is no tensor, in one part."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    dtype: Annotated[str, Field(pattern=f"^({'|'.join(_TYPES)})$")] | None
    shape: tuple[_Count, ...]
    parts: tuple[_Part, ...]


class Plan(BaseModel):
    """Where everything of a sharded checkpoint lies, by the name of the value."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    version: Literal[1] = 1
    values: dict[str, _Value]

    @property
    def files(self) -> set[str]:
        """The names of all files with parts."""
        return {part.file for value in self.values.values() for part in value.parts}


@dataclass(frozen=True)
class _Stored:
    file: str
    name: str
    entry: FileEntry


class RankWriter(StorageWriter):
    """Writes the part of one rank; on the rank that coordinates, it learns what all have written.

    Args:
        path: of this rank's file, in the directory of a commit under way; all ranks see it.
        new_key: encrypts the file; None: it is not encrypted.
        storage: the system calls.
    """

    def __init__(self, path: Path, new_key: NewKey | None, storage: Storage) -> None:
        super().__init__()
        self._path = path
        self._new_key = new_key
        self._storage = storage
        self.entries: dict[str, FileEntry] = {}
        """The files of all ranks, once they are durable."""
        self.plan = Plan(values={})

    def reset(self, checkpoint_id: object = None) -> None:
        """Every save has a writer of its own."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing has to be prepared."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes this rank's file, if it has anything; durable on return."""
        tensors = {_name(item.index): _tensor(planner.resolve_data(item)) for item in plan.items}
        results: list[WriteResult] = []
        if tensors:
            entry = write_listed(self._storage, self._path, tensors, self._new_key)
            for item in plan.items:
                name = _name(item.index)
                stored = _Stored(self._path.name, name, entry)
                results.append(WriteResult(item.index, tensors[name].nbytes, stored))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Every rank has written: what and where becomes the plan."""
        written = [result for rank in results for result in rank]
        self.entries = {result.storage_data.file: result.storage_data.entry for result in written}
        stored = {result.index: result.storage_data for result in written}
        values = {
            name: _described(name, value, stored) for name, value in metadata.state_dict_metadata.items()
        }
        self.plan = Plan(values=values)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:  # noqa: ARG003
        return False  # it is told its directory


class RankReader(StorageReader):
    """Reads what one rank needs, of whatever number of ranks it was written; every file is verified first.

    Args:
        plan: of the checkpoint.
        files: those of the checkpoint, by name.
    """

    def __init__(self, plan: Plan, files: Mapping[str, FileRef]) -> None:
        super().__init__()
        self._plan = plan
        self._files = files
        self._parts = {
            _index(name, value, part): part for name, value in plan.values.items() for part in value.parts
        }
        self._tensors: dict[tuple[str, str], torch.Tensor] = {}

    def reset(self, checkpoint_id: object = None) -> None:
        """Every load has a reader of its own."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002
        return Metadata({name: _metadata(value) for name, value in self._plan.values.items()})

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Nothing has to be prepared."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Verifies what is needed: one that fails keeps all ranks from changing anything."""
        needed = {self._parts[item.storage_index] for item in plan.items}
        for file in sorted({part.file for part in needed}):
            names = [part.name for part in needed if part.file == file]
            if file not in self._files:
                raise CheckpointCorrupt(
                    f"{SHARDED_PLAN} names a file {file!r} that the manifest does not list."
                )
            tensors = load_tensors(self._files[file], names)
            self._tensors |= {(file, name): tensor for name, tensor in tensors.items()}
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        for item in plan.items:
            part = self._parts[item.storage_index]
            self._read(item, self._tensors[part.file, part.name], planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, item: ReadItem, source: torch.Tensor, planner: LoadPlanner) -> None:
        if item.type == LoadItemType.BYTE_IO:
            planner.load_bytes(item, io.BytesIO(source.numpy().tobytes()))
            return
        for axis, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
            source = source.narrow(axis, start, length)
        target = planner.resolve_tensor(item).detach()
        target.copy_(source)
        planner.commit_tensor(item, target)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: object) -> bool:  # noqa: ARG003
        return False  # it is told its files


class PlainSavePlanner(DefaultSavePlanner):
    """Values that are no tensors become JSON, where the library would pickle them."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:  # noqa: A002 - the library's name
        if write_item.type != WriteItemType.BYTE_IO:
            return object
        encoded = encode({write_item.index.fqn: object})
        if encoded.tensors:
            raise CheckpointError(
                f"{write_item.index.fqn} cannot be stored in a sharded checkpoint: it holds arrays. Make "
                "tensors of them."
            )
        return io.BytesIO(to_json(encoded.tree))


class PlainLoadPlanner(DefaultLoadPlanner):
    """Reads what `PlainSavePlanner` wrote; nothing is unpickled."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        name = read_item.dest_index.fqn
        holder: Any = self.original_state_dict
        *path, last = self.mappings[name]
        for key in path:
            holder = holder[key]
        holder[last] = decode(from_json(value.getvalue()), {})[name]


def _name(index: MetadataIndex) -> str:
    """Of a part in the file of its rank."""
    return index.fqn if index.offset is None else f"{index.fqn}[{','.join(map(str, index.offset))}]"


def _tensor(data: torch.Tensor | io.BytesIO) -> torch.Tensor:
    if isinstance(data, torch.Tensor):
        return data.detach()
    return torch.tensor(list(data.getvalue()), dtype=torch.uint8)


def _described(
    name: str, value: TensorStorageMetadata | BytesStorageMetadata, stored: Mapping[MetadataIndex, _Stored]
) -> _Value:
    if not isinstance(value, TensorStorageMetadata):
        place = stored[MetadataIndex(name)]
        return _Value(dtype=None, shape=(), parts=(_Part(file=place.file, name=place.name),))
    parts = []
    for chunk in value.chunks:
        place = stored[MetadataIndex(name, chunk.offsets)]
        parts.append(
            _Part(file=place.file, name=place.name, offsets=tuple(chunk.offsets), sizes=tuple(chunk.sizes))
        )
    dtype = TYPE_NAMES[value.properties.dtype]
    return _Value(dtype=dtype, shape=tuple(value.size), parts=tuple(parts))


def read_plan(file: FileRef) -> Plan:
    """Where everything of a checkpoint lies.

    Raises:
        CheckpointCorrupt: the file is not what was saved, or no plan.
    """
    try:
        return Plan.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise CheckpointCorrupt(f"{file.path} breaks its schema: {error.errors()[0]['msg']}.") from error


def _index(name: str, value: _Value, part: _Part) -> MetadataIndex:
    return MetadataIndex(name) if value.dtype is None else MetadataIndex(name, part.offsets)


def _metadata(value: _Value) -> TensorStorageMetadata | BytesStorageMetadata:
    if value.dtype is None:
        return BytesStorageMetadata()
    chunks = [_chunk(part.offsets, part.sizes) for part in value.parts]
    return TensorStorageMetadata(TensorProperties(_TYPES[value.dtype]), torch.Size(value.shape), chunks)


def _chunk(offsets: Sequence[int], sizes: Sequence[int]) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
