"""What tests of worker processes share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.workers import LocalPool
from tests.workers import tasks


@pytest.fixture(scope="session", autouse=True)
def zygote() -> Iterator[None]:
    """Keeps the process alive that pools of these tests are forked from."""
    pool = LocalPool(1, tasks.PRELOAD)
    yield
    pool.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A named pipe: reading it waits until a task has written."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path
