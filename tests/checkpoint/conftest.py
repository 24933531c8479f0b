"""Fixtures: a run directory and an open store in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.checkpoint.store import CheckpointStore
from tests.checkpoint.runs import open_store


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def store(run_dir: Path) -> Iterator[CheckpointStore]:
    with open_store(run_dir) as opened:
        yield opened
