"""A killed run that goes on in another process ends bit for bit where the run that was never killed ends."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.session.processes import told_by, train, train_and_die


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Fingerprint and marks of a run that was never killed, by the kind of its optimizer."""

    @cache
    def uninterrupted(kind: str) -> Any:
        (told,) = told_by(train, tmp_path_factory.mktemp("straight"), kind)
        return told

    return uninterrupted


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    tmp_path: Path, kind: str, straight: Callable[[str], Any]
) -> None:
    expected, marks = straight(kind)
    mask = next(epoch for what, epoch in marks if what == "mask")
    cut = next(epoch for what, epoch in marks if what == "cut")
    assert mask < cut
    # Where it is killed matters to the structure, which adamw sees; sgd has the other kind of state.
    for epochs in sorted({mask - 1, mask, cut}) if kind == "adamw" else [cut]:
        run = tmp_path / f"killed-after-{epochs}"
        told_by(train_and_die, run, kind, epochs)
        [(fingerprint, marks_of_resumed)] = told_by(train, run, kind)
        assert marks_of_resumed == marks, f"killed after epoch {epochs}"
        assert fingerprint == expected, f"killed after epoch {epochs}"


def test_a_run_may_be_killed_more_than_once(tmp_path: Path, straight: Callable[[str], Any]) -> None:
    expected, _ = straight("adamw")
    for epochs in (1, 3, 3):
        told_by(train_and_die, tmp_path / "killed", "adamw", epochs)
    [(fingerprint, _)] = told_by(train, tmp_path / "killed", "adamw")
    assert fingerprint == expected
