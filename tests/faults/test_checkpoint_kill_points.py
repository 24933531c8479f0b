"""SIGKILL in place of every single system call that changes anything: one legal outcome each."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.checkpoint.runs import content, debris, holds, open_store
from tests.faults.dying import NEVER, run_until


@pytest.mark.slow
def test_a_kill_at_any_call_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    told = tmp_path / "told"
    assert run_until(tmp_path / "whole", NEVER, told) == 0
    total = int(told.read_text().split()[-1])
    assert total > 60
    for call in range(1, total + 1):
        run_dir, told = tmp_path / f"run-{call}", tmp_path / f"told-{call}"
        assert run_until(run_dir, call, told) == -signal.SIGKILL
        done = told.read_text() if told.exists() else ""
        with open_store(run_dir, keep_last=1) as store:
            assert debris(run_dir) == []
            search = store.search()
            assert search.rejected == ()
            found = search.found.step if search.found else 0
            assert search.found is None or holds(search.found, found)
            assert found in legal(done)
            steps = [ref.step for ref in store.list().checkpoints]
            assert ("saved 1" not in done) or 1 in steps
            if "attached" in done:
                masks = store.attachments(store.catalog.at(1))
                assert [mask.name for mask in masks.found] == ["mask-01"]
                assert store.pins()[1] == {"baseline", "mask-01"}
            if found == 3 and search.found is not None:
                assert store.catalog.blob(search.found, "twin").read_bytes() == b"program"
            assert holds(store.save(9, 0, content(9)), 9)


def legal(done: str) -> set[int]:
    """The steps that may be the newest, given what was acknowledged: the last, or the one in the making."""
    if "withdrawn" in done:
        return {1}
    if "saved 3" in done:
        return {3, 1}
    if "saved 2" in done:
        return {2, 3}
    if "saved 1" in done:
        return {1, 2}
    return {0, 1}
