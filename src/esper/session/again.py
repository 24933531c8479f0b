"""A finished run whose script is started again and trains nothing: the report of its end still stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper.errors import ContractError
from esper.report import EpochRow, RunReport
from esper.runs import REPORT_FILE

if TYPE_CHECKING:
    from esper.session.session import Session


def report_of_end(session: Session) -> RunReport | None:
    """What was written when the run was finished, if it is about the network of now.

    Returns:
        None if anything was done or asked for since, if the run was not finished, or if its report is not
        there: a process may be killed before it is written.
    """
    ending, parts = session.log.progress.ending, session.parts
    if ending is None or ending.settings_id != parts.terms.settings_id:
        return None
    is_at_end = session.step == ending.checkpoint == parts.saving.last_step
    if not is_at_end or parts.network.masks.num_masked or parts.growing.is_under_way:
        return None
    try:
        report = RunReport.read(session.run_dir / REPORT_FILE)
    except (OSError, ContractError):  # one is made anew
        return None
    is_of_now = (
        [_way(row) for row in report.epochs] == [_way(row) for row in session.log.epochs]
        and report.marks == session.log.moments()
        and report.parameters_after == parts.network.anatomy.parameters()
    )
    return report if is_of_now else None


def _way(row: EpochRow) -> tuple[int, int, float, int]:
    """A row without what was measured, which need not be a number and then equals nothing."""
    return row.epoch, row.step, row.flops, row.parameters
