"""Where tests of faults write: in memory where that can be, since a sync of a disk proves nothing here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory, or on the disk where there is no such place."""
    with tempfile.TemporaryDirectory(prefix="esper-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield Path(folder)
