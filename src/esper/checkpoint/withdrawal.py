"""A rollback from outside of training: the audit tells of it before anything is deleted."""

from __future__ import annotations

from collections.abc import Callable

from esper.checkpoint.layout import step_number
from esper.checkpoint.references import CheckpointRef
from esper.checkpoint.store import CheckpointStore
from esper.nissa import acts


def withdraw(
    store: CheckpointStore, target: CheckpointRef, told: Callable[[acts.Withdrawn], None] = lambda _: None
) -> tuple[str, ...]:
    """Goes back to a checkpoint by deleting all later ones, and tells the audit of it first.

    Args:
        store: open for writing.
        target: verified.
        told: whoever else has to know, after the audit and before anything is deleted.

    Returns:
        The names of the checkpoints that were deleted, newest first; `store.aside` tells of those that
        nothing vouches for. Where there was no later one, nothing is told.

    Raises:
        CheckpointError: it was not written down and nothing was changed, or a checkpoint was not deleted.
    """
    later = [path for path in store.catalog.newest_first() if step_number(path) > target.step]
    if not later:
        return ()
    newest = store.list().checkpoints[-1]
    in_doubt = [path for path in later if path in store.doubted]
    act = acts.Withdrawn(
        from_step=newest.step,
        from_epoch=newest.epoch,
        to_step=target.step,
        to_epoch=target.epoch,
        deleted=tuple(path.name for path in later if path not in in_doubt),
        aside=tuple(path.name for path in in_doubt),
    )
    store.audit.emit(act)
    told(act)
    return tuple(path.name for path in store.withdraw_after(target) if path not in store.aside)
