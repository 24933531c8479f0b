"""A killed run that goes on in another process ends bit for bit where the run that was never killed ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.session.processes import told_by, train, train_and_die


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path: Path, kind: str) -> None:
    [(expected, marks)] = told_by(train, tmp_path / "straight", kind)
    mask = next(epoch for what, epoch in marks if what == "mask")
    cut = next(epoch for what, epoch in marks if what == "cut")
    assert mask < cut
    for epochs in sorted({mask - 1, mask, cut}):
        run = tmp_path / f"killed-after-{epochs}"
        told_by(train_and_die, run, kind, epochs)
        [(fingerprint, marks_of_resumed)] = told_by(train, run, kind)
        assert marks_of_resumed == marks, f"killed after epoch {epochs}"
        assert fingerprint == expected, f"killed after epoch {epochs}"


def test_a_run_may_be_killed_more_than_once(tmp_path: Path) -> None:
    [(expected, _)] = told_by(train, tmp_path / "straight", "adamw")
    for epochs in (1, 3, 3, 4):
        told_by(train_and_die, tmp_path / "killed", "adamw", epochs)
    [(fingerprint, _)] = told_by(train, tmp_path / "killed", "adamw")
    assert fingerprint == expected
