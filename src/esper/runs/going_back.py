"""Going back to a checkpoint of a run from outside of it: what that takes away, and doing it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from esper.errors import CheckpointCorrupt, CheckpointError
from esper.runs.open import open_catalog
from esper.runs.reopened import Reopened
from esper.runs.rows import step_number
from esper.runs.story import REPORT_FILE, RunState, state_of_writer

if TYPE_CHECKING:
    from esper.checkpoint import CheckpointCatalog


@dataclass(frozen=True)
class Later:
    """What lies behind one checkpoint of a run, and would be gone.

    Attributes:
        step: of the checkpoint to go back to.
        epoch: its epoch.
        names: of later checkpoints, newest first, those that nothing vouches for included.
        last_step: of the newest one that can be read; that of the checkpoint itself if there is none.
        last_epoch: its epoch.
        is_reported: whether the run has a report, which would be set aside.
        state: whether somebody trains it now.
    """

    step: int
    epoch: int
    names: tuple[str, ...]
    last_step: int
    last_epoch: int
    is_reported: bool
    state: RunState


@dataclass(frozen=True)
class WentBackTo:
    """What was done.

    Attributes:
        step: of the checkpoint that is the newest one now.
        epoch: its epoch.
        deleted: names of the later checkpoints that are gone, newest first.
        aside: where those are that nothing vouched for.
        reports: where the report of a finished run is now.
    """

    step: int
    epoch: int
    deleted: tuple[str, ...]
    aside: tuple[str, ...]
    reports: tuple[str, ...]

    def said(self, run: Path) -> str:
        """The same in words."""
        deleted = ", ".join(self.deleted) or "nothing"
        text = f"{run} now ends at step {self.step}, epoch {self.epoch}; deleted: {deleted}."
        if self.aside:
            text += f" Set aside, because nothing vouches for it: {', '.join(self.aside)}."
        if self.reports:
            text += f" It is not finished any more; its report is now {', '.join(self.reports)}."
        return text


def behind(run: Path, to: int) -> Later:
    """What going back to the checkpoint of a step would take away; only manifests are read.

    Raises:
        EsperError: there is no such run or checkpoint.
    """
    catalog = open_catalog(run)
    target = catalog.at(to)
    newest = catalog.list().checkpoints[-1]
    reported, state = (run / REPORT_FILE).is_file(), state_of_writer(run)
    return Later(to, target.epoch, _later(catalog, to), newest.step, newest.epoch, reported, state)


def go_back(run: Path, to: int, agree: Callable[[Sequence[str]], None]) -> WentBackTo:
    """Makes an earlier checkpoint the newest one again, so that training resumes from it.

    It is verified first. The audit is told before anything is deleted, and the report of a finished run is
    set aside.

    Args:
        run: the run directory.
        to: the step to go back to.
        agree: is asked, with the names of later checkpoints, before anything is changed; raises if not.

    Raises:
        EsperError: nothing was changed: there is no such checkpoint, it is damaged, or the run is trained.
    """
    from esper.checkpoint import CheckpointStore, open_key_ring, withdraw

    open_catalog(run)
    reopened = Reopened(run)
    try:
        opened = CheckpointStore(run, keyring=open_key_ring(run))
    except CheckpointError as error:
        if state_of_writer(run) is not RunState.RUNNING:
            raise
        raise CheckpointError(f"{error} Nothing was changed. {while_it_trains(run, to)}") from error
    with opened as store:
        target = store.catalog.at(to)
        report = store.verify(target)
        if not report.is_ok:
            raise CheckpointCorrupt(
                f"{target.path} is damaged: {'; '.join(report.problems)}. Nothing was changed. "
                f"`esper verify {run}` shows which checkpoints are intact."
            )
        agree(_later(store.catalog, to))
        deleted = withdraw(store, target, reopened.tell)
        aside = tuple(str(path) for path in store.aside.values())
    return WentBackTo(to, target.epoch, deleted, aside, tuple(str(path) for path in reopened.aside))


def while_it_trains(run: Path, to: int) -> str:
    """What to do where a run cannot be changed from outside, because somebody trains it."""
    asks = f"`esper ask {shlex.quote(str(run))} rollback --to {to}`"
    return f"To go back while it trains, ask it by {asks}: it does so where its epoch ends."


def _later(catalog: CheckpointCatalog, to: int) -> tuple[str, ...]:
    return tuple(path.name for path in catalog.newest_first() if step_number(path) > to)
