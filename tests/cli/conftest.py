"""A small run that several tests of the command line look at, and none changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.runs import EPOCHS, Training


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in whose last checkpoint units have gone."""
    run = tmp_path_factory.mktemp("runs") / "trained"
    training = Training(run, pruning={"plan": {"min_finalists": 48}})  # so that many stay
    for _ in range(EPOCHS - 1):
        training.epoch(lambda _: 0.5)
    assert "mask" in training.marks()
    training.session.detach()
    return run
