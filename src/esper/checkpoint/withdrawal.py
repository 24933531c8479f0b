"""A rollback from outside of training: what it withdrew is told beside the checkpoint it went back to."""

from __future__ import annotations

import json
from dataclasses import dataclass

from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.layout import step_number
from esper.checkpoint.references import AttachmentRef, CheckpointRef
from esper.checkpoint.store import CheckpointStore
from esper.leyline import decode

_FILE = "rollback.json"
_NAME = "rollback-"


@dataclass(frozen=True)
class Withdrawal:
    """One rollback by hand.

    Attributes:
        at_seconds: when, since 1970.
        from_step: step of the newest checkpoint before it.
        from_epoch: its epoch.
        to_step: step of the checkpoint that was named.
        to_epoch: its epoch.
        deleted: names of the later checkpoints that were deleted, newest first.
        aside: names of those that were set aside, because nothing vouched for them.
    """

    at_seconds: float
    from_step: int
    from_epoch: int
    to_step: int
    to_epoch: int
    deleted: tuple[str, ...]
    aside: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        aside = f", and set {', '.join(self.aside)} aside" if self.aside else ""
        return (
            f"Went back from step {self.from_step}, epoch {self.from_epoch}, to the checkpoint of step "
            f"{self.to_step}, epoch {self.to_epoch}, which was named, and deleted "
            f"{', '.join(self.deleted) or 'nothing'}{aside}, by hand."
        )


def withdraw(store: CheckpointStore, target: CheckpointRef) -> tuple[str, ...]:
    """Goes back to a checkpoint by deleting all later ones, and tells of it beside that checkpoint first.

    The record is there before the first checkpoint goes, so that none goes untold; it goes with `target`.

    Returns:
        The names of the checkpoints that were deleted, newest first; `store.aside` tells of those that
        nothing vouches for. Where there was no later one, nothing is told.

    Raises:
        CheckpointError: the record was not stored and nothing was changed, or a checkpoint was not deleted.
    """
    later = [path for path in store.catalog.newest_first() if step_number(path) > target.step]
    if not later:
        return ()
    newest = store.list().checkpoints[-1]
    in_doubt = [path for path in later if path in store.doubted]
    content = {
        "from_step": newest.step,
        "from_epoch": newest.epoch,
        "to_step": target.step,
        "to_epoch": target.epoch,
        "deleted": [path.name for path in later if path not in in_doubt],
        "aside": [path.name for path in in_doubt],
    }
    number = 1 + sum(path.name.startswith(_NAME) for path in target.path.iterdir())
    name = f"{_NAME}{number:02d}"
    store.commit_attachment(target, name, {_FILE: json.dumps(content).encode()}, pin=False)
    return tuple(path.name for path in store.withdraw_after(target) if path not in store.aside)


def withdrawals(
    catalog: CheckpointCatalog, checkpoint: CheckpointRef
) -> tuple[tuple[Withdrawal, ...], tuple[str, ...]]:
    """The rollbacks that ended at a checkpoint, oldest first, and what is wrong with records of others."""
    attached = catalog.attachments(checkpoint)
    found = tuple(_read(one) for one in attached.found if one.name.startswith(_NAME))
    damaged = [one for one in attached.rejected if one.path.name.startswith(_NAME)]
    return found, tuple(f"The record of a rollback by hand does not verify: {one}." for one in damaged)


def _read(record: AttachmentRef) -> Withdrawal:
    content = json.loads(record.file(_FILE).read_bytes())
    return decode(Withdrawal, {**content, "at_seconds": record.created_seconds})
