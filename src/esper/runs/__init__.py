"""A run directory read from outside: its checkpoints as rows, and what commands can be pointed at."""

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

__all__ = [
    "AnatomyRows",
    "Asker",
    "CheckpointRow",
    "FrozenRow",
    "GroupRow",
    "Mailbox",
    "MemberRow",
    "VerifyRow",
    "anatomy_rows",
    "built",
    "called",
    "checkpoint_at",
    "checkpoint_rows",
    "inspected",
    "named",
    "open_catalog",
    "step_number",
    "verify_rows",
]
