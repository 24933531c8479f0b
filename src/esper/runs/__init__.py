"""A run directory read from outside: its checkpoints as rows, and what commands can be pointed at."""

from esper.runs.audited import Audited, decided
from esper.runs.mail import Asker, Mailbox
from esper.runs.named import called, named
from esper.runs.open import built, checkpoint_at, inspected, open_catalog
from esper.runs.rows import (
    AnatomyRows,
    CheckpointRow,
    FrozenRow,
    GroupRow,
    MemberRow,
    VerifyRow,
    anatomy_rows,
    checkpoint_rows,
    step_number,
    verify_rows,
)
from esper.runs.story import RunState, RunWatch, Story, runs_in

__all__ = [
    "AnatomyRows",
    "Asker",
    "Audited",
    "CheckpointRow",
    "FrozenRow",
    "GroupRow",
    "Mailbox",
    "MemberRow",
    "RunState",
    "RunWatch",
    "Story",
    "VerifyRow",
    "anatomy_rows",
    "built",
    "called",
    "checkpoint_at",
    "checkpoint_rows",
    "decided",
    "inspected",
    "named",
    "open_catalog",
    "runs_in",
    "step_number",
    "verify_rows",
]
