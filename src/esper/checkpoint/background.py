"""Saves beside training: the training thread only pays for a copy, and a failure is never lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from esper.checkpoint.content import FileContent, Staged
from esper.checkpoint.file_ref import FileRef
from esper.checkpoint.references import CheckpointRef
from esper.checkpoint.staging import StagingBuffers
from esper.checkpoint.store import NO_BLOBS, CheckpointStore
from esper.errors import CheckpointError


@dataclass(frozen=True)
class Stall:
    """How long one save held training up."""

    waited_seconds: float
    """For the save before it, when that one was still being written."""
    copied_seconds: float
    """For the copy into the staging buffers."""
    copied_bytes: int

    @property
    def copy_ms_per_gb(self) -> float:
        """Milliseconds of the staged copy for 10^9 bytes; 0 when nothing was copied."""
        return self.copied_seconds * 1e12 / self.copied_bytes if self.copied_bytes else 0.0


class BackgroundSaver:
    """Hands saves to one writer thread, at most one at a time.

    A save that failed in the background raises its CheckpointError at the next `check`, `submit`, `wait` or
    `close`, once; after that the saver works on. Leaving a `with` block waits for the last save.

    Args:
        store: where to save.
        timer: seconds for the stall figures.
    """

    def __init__(self, store: CheckpointStore, *, timer: Callable[[], float] = time.perf_counter) -> None:
        self.store = store
        self.last_stall: Stall | None = None
        self.last_saved: CheckpointRef | None = None
        """The newest save that is known to be durable."""
        self._pid = os.getpid()
        self._timer = timer
        self._staging = StagingBuffers()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="esper-save")
        self._in_flight: Future[CheckpointRef] | None = None

    @property
    def pending(self) -> Future[CheckpointRef] | None:
        """The save in flight, for another thread to wait for; its failure is still raised here as well."""
        return self._in_flight

    def reserve(self, files: Mapping[str, FileContent]) -> None:
        """Makes the staging buffers for such files before training starts."""
        self._staging.reserve(files)

    def submit(
        self,
        step: int,
        epoch: int,
        files: Mapping[str, FileContent],
        *,
        blobs: Mapping[str, FileRef] = NO_BLOBS,
        pin: str | None = None,
    ) -> Stall:
        """Copies the tensors and starts saving them; the arguments are those of `CheckpointStore.save`.

        Waits for the save before it. Training may change the tensors as soon as this returns; a file given by
        its path must not change until the save is done.

        Raises:
            CheckpointError: the save before this one failed (this one was not started), or a tensor cannot be
                stored.
        """
        start = self._timer()
        self.store.require_writer()  # in a forked child the thread is missing, and nothing would ever be done
        self.wait()
        waited = self._timer()
        staged = self._staging.stage(files)
        copied = self._timer()
        self._in_flight = self._thread.submit(self.store.save, step, epoch, staged, blobs=blobs, pin=pin)
        size = sum(content.size for content in staged.values() if isinstance(content, Staged))
        self.last_stall = Stall(waited - start, copied - waited, size)
        return self.last_stall

    def check(self) -> None:
        """Raises what went wrong in the background, if a save has ended; never waits."""
        if self._in_flight is not None and self._in_flight.done():
            self.wait()

    def wait(self) -> CheckpointRef | None:
        """Waits until nothing is in flight; returns the newest durable save, or raises why it failed."""
        future, self._in_flight = self._in_flight, None
        if future is not None:
            if not future.done() and os.getpid() != self._pid:
                raise CheckpointError(
                    f"Process {self._pid} is writing this save, and a forked child cannot wait for it. Use "
                    "the session or saver in the process that opened it."
                )
            self.last_saved = future.result()
        return self.last_saved

    def close(self) -> None:
        """Waits for the last save, ends the thread, and raises if that save failed. The store stays open."""
        self._thread.shutdown(wait=True)
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
