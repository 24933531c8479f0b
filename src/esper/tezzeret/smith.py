"""Tezzeret: has kernels made by a worker process, puts them on the shelf, and takes them down verified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from esper.errors import AnalysisError, CheckpointError, CheckpointMissing, ConfigError
from esper.tezzeret.forging import Forged, forge
from esper.tezzeret.order import KernelOrder
from esper.tezzeret.settings import KernelSettings
from esper.tezzeret.shelf import Kernel, KernelShelf
from esper.urabrask import Check, KernelLimits
from esper.workers import Ending, TaskOutcome, WorkerPool, WorkerTask

PRELOAD = ("torch", "safetensors.torch", __name__)
"""Modules that making a kernel needs, for workers to import before the first one."""
_STARTING_SECONDS = 60.0
"""More than a process takes to import what a worker needs, on a machine that does something else."""
_ENDINGS = {
    Ending.TIMEOUT: "No kernel: the worker that made it was stopped at its deadline of {seconds:g} s.",
    Ending.MEMORY: "No kernel: making it takes more than the {megabytes:,.0f} MB of memory that it may take.",
    Ending.LOST: "No kernel: the worker that made it died. {message}",
    Ending.CANCELED: "No kernel: it was called off.",
    Ending.FAILED: "No kernel: its blueprint failed in the worker. {message}",
}


@dataclass(frozen=True)
class NoKernel:
    """A kernel that is not to be had.

    Attributes:
        why: in words.
        failed: the questions that it did not pass, if it came to that.
        is_fault: whether something failed that might work another time, and not the blueprint.
    """

    why: str
    failed: tuple[Check, ...] = ()
    is_fault: bool = True


@dataclass(frozen=True)
class Fetched:
    """What became of an order.

    Attributes:
        kernel: or why there is none.
        rejected: what was on the shelf and did not verify, in words; '' if there was no such thing.
        is_made: whether a worker has made it for this.
    """

    kernel: Kernel | NoKernel
    rejected: str = ""
    is_made: bool = False


class Tezzeret:
    """Makes the kernels of one run.

    Args:
        shelf: where they lie.
        open_pool: opens the worker pool when the first kernel is asked for.
        settings: what one may take.
        pool: was opened before; it is this one's from now on.
    """

    def __init__(
        self,
        shelf: KernelShelf,
        open_pool: Callable[[], WorkerPool],
        settings: KernelSettings,
        pool: WorkerPool | None = None,
    ) -> None:
        self._shelf, self._open_pool, self._settings = shelf, open_pool, settings
        self._pool = pool

    def fetch(self, order: KernelOrder) -> Fetched:
        """The kernel from the shelf if it lies there and verifies; else made, committed, and then verified.

        Waits for the worker. What can go wrong is a value.
        """
        rejected = ""
        try:
            return Fetched(self._shelf.load(order))
        except CheckpointMissing:
            pass  # the usual case: nobody has asked for it before
        except CheckpointError as error:
            rejected = str(error)
        try:
            if rejected:
                self._shelf.set_aside(order)
            made = self._made(order)
        except (OSError, CheckpointError) as error:
            made = NoKernel(f"No kernel: it could not be stored. {error}")
        return Fetched(made, rejected, is_made=isinstance(made, Kernel))

    def close(self) -> None:
        """Ends the worker; who waits for it is told that it was called off."""
        if self._pool is not None:
            self._pool.close()

    def _made(self, order: KernelOrder) -> Kernel | NoKernel:
        settings, file = self._settings, self._shelf.place_for(order)
        limits = KernelLimits(settings.max_bytes, settings.max_pass_seconds)
        task = WorkerTask(
            forge,
            {"order": order, "file": file, "limits": limits},
            deadline_seconds=settings.deadline_seconds,
            memory_bytes=settings.memory_bytes,
            retries=0,
        )
        try:
            outcome = self._outcome(task)
            if not outcome.is_done:
                return NoKernel(self._told(outcome), is_fault=outcome.ending is not Ending.FAILED)
            forged: Forged = outcome.value
            if forged.failures:
                return NoKernel("No kernel: it did not pass.", forged.failures, is_fault=False)
            self._shelf.commit(order, forged, file)
            return self._shelf.load(order)
        except (AnalysisError, ConfigError) as error:
            return NoKernel(f"No kernel: {error}")
        finally:
            file.unlink(missing_ok=True)

    def _outcome(self, task: WorkerTask) -> TaskOutcome:
        if self._pool is None:
            self._pool = self._open_pool()
        handle = self._pool.submit(task)
        if not handle.wait(task.deadline_seconds + _STARTING_SECONDS):
            handle.cancel()
            return replace(handle.outcome(), ending=Ending.TIMEOUT)
        return handle.outcome()

    def _told(self, outcome: TaskOutcome) -> str:
        settings = self._settings
        return _ENDINGS[outcome.ending].format(
            seconds=settings.deadline_seconds,
            megabytes=settings.memory_bytes / 1e6,
            message=outcome.message,
        )
