"""What a pool of workers is: tasks go in, and an outcome comes out for every one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from esper.errors import ConfigError

if TYPE_CHECKING:
    from esper.workers.health import WorkerHealth


class Ending(StrEnum):
    """How a task ended."""

    DONE = "done"
    FAILED = "failed"
    """It raised an error."""

    LOST = "lost"
    """Its process died."""

    TIMEOUT = "timeout"
    """It was not done by its deadline."""

    MEMORY = "memory"
    """It asked for more memory than its cap."""

    CANCELED = "canceled"
    """It was canceled, or the pool was closed, before it ended."""


@dataclass(frozen=True)
class WorkerTask:
    """One call to make in a worker process.

    `function` is a function of an importable module, or its name as "module:function". It is called with
    `arguments` by keyword. Arguments and result go as its annotations say: what JSON can hold, tuples, sets,
    enums, paths, bytes, NumPy arrays and dataclasses of these; without annotations, and where only its name
    is given, just what JSON can hold. Files go as references. Processes that it has started end with it.

    `deadline_seconds` and `memory_bytes` hold for one attempt. `memory_bytes` is the private writable
    memory that the task may take beyond what its worker holds when it starts. Private maps of files are
    part of that, and the safetensors library maps so: add the size of the files. None is no cap, and only
    Linux enforces one. A task whose process dies, hangs or runs out of memory is tried `retries` times
    more; one that raises is not.
    """

    function: Callable[..., Any] | str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    deadline_seconds: float = 300.0
    memory_bytes: int | None = None
    retries: int = 1

    @property
    def function_name(self) -> str:
        """The function as "module:function".

        Raises:
            ConfigError: A worker could not find it: a lambda, a nested function, or one of the main script.
        """
        if isinstance(self.function, str):
            return self.function
        module, name = self.function.__module__, self.function.__qualname__
        if module == "__main__":
            raise ConfigError(
                f"Function {name!r} belongs to the main script, which workers never run. Move it into a "
                "module that can be imported."
            )
        if getattr(import_module(module), name, None) is not self.function:
            raise ConfigError(
                f"Workers find a function by its name, and {name!r} in module {module!r} cannot be found so. "
                "Use a function that is defined at the top of a module."
            )
        return f"{module}:{name}"


@dataclass(frozen=True)
class TaskOutcome:
    """How a task ended: its `value` if done, otherwise a `message` for people.

    `seconds` is the time of the last attempt, `worker` the number of the worker that made it (None if none
    did), `peak_bytes` the most memory that the worker's process has held so far, if it could still tell.
    """

    ending: Ending
    value: Any = None
    message: str = ""
    attempts: int = 0
    seconds: float = 0.0
    worker: int | None = None
    peak_bytes: int | None = None

    @property
    def is_done(self) -> bool:
        return self.ending is Ending.DONE

    @property
    def is_late(self) -> bool:
        """Was it stopped at its deadline?"""
        return self.ending is Ending.TIMEOUT


class TaskHandle(Protocol):
    """A task that was handed in."""

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Waits for the outcome, at most `timeout_seconds`; returns whether it is there."""
        ...

    def outcome(self) -> TaskOutcome:
        """Waits for the outcome and returns it. Whatever went wrong is a value, not an exception."""
        ...

    def cancel(self) -> None:
        """Stops the task if it is not over: its process is killed, the outcome is `CANCELED`."""
        ...


class WorkerPool(Protocol):
    """Runs tasks; a task that crashes, hangs or takes too much memory harms no other."""

    @property
    def num_workers(self) -> int:
        """How many tasks it runs at once."""
        ...

    def submit(self, task: WorkerTask) -> TaskHandle:
        """Hands a task in and returns at once where the pool has processes.

        Raises:
            ConfigError: The function or an argument cannot be sent to a worker.
            AnalysisError: The pool is closed.
        """
        ...

    def health(self) -> tuple[WorkerHealth, ...]:
        """How every worker has fared so far; one that has ended no task is unknown, not well."""
        ...

    def close(self) -> None:
        """Stops everything at once; tasks that are not over become `CANCELED`. Twice is once."""
        ...
