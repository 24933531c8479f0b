"""Where things lie in a run directory, and what they are called."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from esper.checkpoint.manifest import BLOB_SUFFIXES
from esper.errors import CheckpointError

STEP_NAME = re.compile(r"step-(\d{9,18})")

SHARDED_PLAN = "sharded.json"
"""In a checkpoint of several ranks: what lies where in their files."""

KERNELS = "kernels"
"""In a run directory: seeds as they were made, each sealed as a checkpoint is."""
TEMPORARY_PREFIX = ".tmp-"
DELETED_PREFIX = ".del-"
ASIDE_PREFIX = ".aside-"
_ASIDE_NAME = re.compile(r"\.aside-(.+)-[0-9a-f]{8}")


def step_number(path: Path) -> int:
    """The step of a directory that `step_name` named."""
    return int(path.name.removeprefix("step-"))


def step_name(step: int) -> str:
    """The directory name of a step: `step-000001200`."""
    return f"step-{step:09d}"


def newest_first(directory: Path) -> Iterator[Path]:
    """Every checkpoint directory from the highest step down, whatever state it is in."""
    matches = [match for name in names_in(directory) if (match := STEP_NAME.fullmatch(name))]
    return (directory / match[0] for match in sorted(matches, key=lambda m: int(m[1]), reverse=True))


def names_in(directory: Path) -> list[str]:
    """The names in a directory, sorted; none if it is not there.

    Raises:
        CheckpointError: it is there and cannot be read.
    """
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - paths are not needed
    except FileNotFoundError:  # retention of a live writer may be faster than this reader
        return []
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be read: {error.strerror}.") from error


def blob_path(run_dir: Path, kind: str, digest: str) -> Path:
    """Where a content-addressed file lies: `twin/<digest>.pt2`."""
    return run_dir / kind / f"{digest}{BLOB_SUFFIXES[kind]}"


def temporary_path(target: Path) -> Path:
    """A name beside `target` for what is not finished: no writer, of whatever host, meets it again."""
    return _marked(TEMPORARY_PREFIX, target)


def deleted_path(target: Path) -> Path:
    """The name under which `target` is deleted."""
    return _marked(DELETED_PREFIX, target)


def aside_path(target: Path) -> Path:
    """The name under which `target` is kept out of the way, because nobody could vouch for it."""
    return target.with_name(f"{ASIDE_PREFIX}{target.name}-{secrets.token_hex(4)}")


def former_name(aside: Path) -> str | None:
    """The name that something had before it was set aside; None if it was not set aside."""
    match = _ASIDE_NAME.fullmatch(aside.name)
    return None if match is None else match[1]


def _marked(prefix: str, target: Path) -> Path:
    return target.with_name(f"{prefix}{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
