"""State that is sharded over ranks (FSDP2, DTensor), by the commit protocol, for any number of ranks to load.

Every rank of the group makes the same call. The first one holds the store: it makes the directory, each rank
writes and syncs its own file in there and says its digests, and when all have, the first one seals and
commits. A rank that fails or dies on the way leaves the checkpoints that there were.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch.distributed as dist

from esper.checkpoint.commit import KeyFor, write_listed
from esper.checkpoint.encrypted import NewKey
from esper.checkpoint.explain import explain
from esper.checkpoint.file_ref import FileRef
from esper.checkpoint.layout import SHARDED_PLAN
from esper.checkpoint.manifest import FileEntry
from esper.checkpoint.references import CheckpointRef
from esper.checkpoint.storage import POSIX, Storage
from esper.checkpoint.store import CheckpointStore
from esper.errors import CheckpointError

if TYPE_CHECKING:
    from esper.checkpoint.sharded_files import Plan


_NewFiles = tuple[tuple[Path, NewKey | None], ...]
"""The file that each rank is to write, and what encrypts it."""


@dataclass(frozen=True)
class _Refusal:
    """What the first rank tells the others instead of what they wait for."""

    reason: str


def _gone(error: Exception) -> str:
    """What to say where ranks cannot exchange what they must; torch raises many things for that."""
    return (
        f"a rank is gone or cannot be reached ({type(error).__name__}: {error}). What was committed before "
        "is intact; start all ranks again."
    )


class _Ranks:
    """The ranks that save or load together; alone where no process group was made."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.is_alone = not (dist.is_available() and dist.is_initialized())
        self.rank = 0 if self.is_alone else dist.get_rank(group)

    def files(self, directory: Path) -> Iterator[Path]:
        """The file of each of them in a directory."""
        count = 1 if self.is_alone else dist.get_world_size(self.group)
        return (directory / f"rank-{rank:05d}.safetensors" for rank in range(count))

    def tell(self, message: object) -> Any:
        """From the first rank to all of them; what the others give is not looked at."""
        if self.is_alone:
            return message
        box = [message]
        first = 0 if self.group is None else dist.get_global_rank(self.group, 0)
        try:
            dist.broadcast_object_list(box, src=first, group=self.group)
        except Exception as error:
            raise CheckpointError(_gone(error)) from error
        return box[0]

    def refuse(self, reason: str) -> NoReturn:
        """Raises on all ranks; on the first one only."""
        self.tell(_Refusal(reason))
        raise CheckpointError(reason)

    def heard(self) -> Any:
        """What the first rank tells; raises what it refuses."""
        message = self.tell(None)
        if isinstance(message, _Refusal):
            raise CheckpointError(message.reason)
        return message


def save_sharded(
    store: CheckpointStore | None,
    step: int,
    epoch: int,
    state: Mapping[str, Any],
    *,
    group: dist.ProcessGroup | None = None,
    pin: str | None = None,
    storage: Storage = POSIX,
) -> Path:
    """Saves state that every rank holds a part of as one checkpoint; returns when it is durable.

    Args:
        store: on the first rank of the group; None on the others, which must see the same directory.
        step: as for `CheckpointStore.save`.
        epoch: likewise.
        state: nested dicts and lists of tensors, DTensors and plain values, such as `get_state_dict` of
            `torch.distributed.checkpoint.state_dict` gives; with the same names on every rank.
        group: the ranks; None: all.
        pin: as for `CheckpointStore.save`.
        storage: the system calls of this rank's own file.

    Returns:
        The directory of the checkpoint.

    Raises:
        CheckpointError: nothing was committed, unless the first rank says that it was and a rank is gone by
            now; older checkpoints are intact.
    """
    ranks = _Ranks(group)
    if ranks.rank:
        return _save_beside(ranks, state, storage)
    if store is None:
        return ranks.refuse("The first rank needs the store that all save into. Nothing was saved.")
    is_heard = True

    def begun(directory: Path, key_for: KeyFor) -> Mapping[str, FileEntry]:
        nonlocal is_heard
        files = tuple((path, key_for(path.name)) for path in ranks.files(directory))
        ranks.tell(files)
        is_heard = False  # until this is over, all ranks fail together
        plan, entries = _write(ranks, files, state, storage)
        is_heard = True
        content = plan.model_dump_json().encode()
        entries[SHARDED_PLAN] = write_listed(
            storage, directory / SHARDED_PLAN, content, key_for(SHARDED_PLAN)
        )
        return entries

    try:
        path = store.save(step, epoch, {}, pin=pin, begun=begun).path
    except BaseException as error:
        if is_heard:
            with suppress(CheckpointError):  # who is gone need not hear it
                ranks.tell(_Refusal(str(error) or type(error).__name__))
        raise
    try:
        ranks.tell(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} was saved and is durable, but then: {error}") from error
    return path


def load_sharded(
    checkpoint: CheckpointRef | None, state: dict[str, Any], *, group: dist.ProcessGroup | None = None
) -> None:
    """Loads a sharded checkpoint into the tensors of `state`, however many ranks it was saved by.

    Every rank verifies the files that it reads before any rank changes anything.

    Args:
        checkpoint: on the first rank of the group; None on the others.
        state: as for `save_sharded`, with the shards that this rank has now: tensors are copied into, plain
            values replaced.
        group: the ranks; None: all.

    Raises:
        CheckpointError: it holds no sharded state, or not all that `state` asks for, or a file is not what
            was saved; nothing was changed on any rank.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    from esper.checkpoint.sharded_files import PlainLoadPlanner, RankReader

    ranks = _Ranks(group)
    plan, files = ranks.heard() if ranks.rank else _told_what_to_load(ranks, checkpoint)
    with _one_error("The sharded checkpoint was not loaded"), _alone_is_meant():
        reader, planner = RankReader(plan, files), PlainLoadPlanner()
        load(state, storage_reader=reader, planner=planner, process_group=group, no_dist=ranks.is_alone)


def _told_what_to_load(ranks: _Ranks, checkpoint: CheckpointRef | None) -> tuple[Plan, dict[str, FileRef]]:
    """On the first rank: what lies where in the checkpoint, and its files; told to all."""
    from esper.checkpoint.sharded_files import read_plan

    if checkpoint is None:
        ranks.refuse("The first rank needs the checkpoint that all are to load. Nothing was changed.")
    if SHARDED_PLAN not in checkpoint.manifest.files:
        ranks.refuse(
            f"{checkpoint.path} holds no sharded state; `load_trainer` reads what `capture_trainer` saved. "
            "Nothing was changed."
        )
    try:
        plan = read_plan(checkpoint.file(SHARDED_PLAN))
        named = plan.files & checkpoint.manifest.files.keys()
        told = (plan, {name: checkpoint.file(name) for name in named})
    except CheckpointError as error:
        ranks.refuse(str(error))
    ranks.tell(told)
    return told


def _save_beside(ranks: _Ranks, state: Mapping[str, Any], storage: Storage) -> Path:
    """The part of every rank but the first."""
    _write(ranks, ranks.heard(), state, storage)
    path: Path = ranks.heard()
    return path


def _write(
    ranks: _Ranks, files: _NewFiles, state: Mapping[str, Any], storage: Storage
) -> tuple[Plan, dict[str, FileEntry]]:
    """Has every rank write its own one of these files; on the first one returns what lies where."""
    from torch.distributed.checkpoint.state_dict_saver import save

    from esper.checkpoint.sharded_files import PlainSavePlanner, RankWriter

    writer, planner = RankWriter(*files[ranks.rank], storage), PlainSavePlanner()
    with _one_error("The sharded state was not saved"), _alone_is_meant():
        save(
            dict(state),
            storage_writer=writer,
            planner=planner,
            process_group=ranks.group,
            no_dist=ranks.is_alone,
        )
    return writer.plan, writer.entries


@contextmanager
def _one_error(what: str) -> Iterator[None]:
    """What goes wrong in the library, on whichever rank, as an error of ours."""
    from torch.distributed.checkpoint.api import CheckpointException  # a BaseException

    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        reason = explain(what, cause) if isinstance(cause, OSError) else f"{what}: {cause}"
        raise CheckpointError(f"Rank {rank} of {_count()}: {reason}") from error
    except Exception as error:
        raise CheckpointError(f"{what}: {_gone(error)}") from error


def _count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def _alone_is_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield
