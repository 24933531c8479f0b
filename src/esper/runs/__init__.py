"""A run directory read from outside: its checkpoints as rows, and what commands can be pointed at."""

from esper.runs.audited import Audited, decided
from esper.runs.going_back import Later, behind, go_back, while_it_trains
from esper.runs.live import live_line, live_panel
from esper.runs.mail import Asker, Mailbox, content_of
from esper.runs.named import called, named
from esper.runs.now import doing
from esper.runs.open import built, checkpoint_at, inspected, open_catalog, require_run
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
    to_verify,
    verify_row,
)
from esper.runs.so_far import report_so_far
from esper.runs.story import (
    REPORT_FILE,
    RUN_FILE,
    RunState,
    RunWatch,
    Story,
    newest_step,
    planned_of,
    runs_in,
)
from esper.runs.told import Told

__all__ = [
    "REPORT_FILE",
    "RUN_FILE",
    "AnatomyRows",
    "Asker",
    "Audited",
    "CheckpointRow",
    "FrozenRow",
    "GroupRow",
    "Later",
    "Mailbox",
    "MemberRow",
    "RunState",
    "RunWatch",
    "Story",
    "Told",
    "VerifyRow",
    "anatomy_rows",
    "behind",
    "built",
    "called",
    "checkpoint_at",
    "checkpoint_rows",
    "content_of",
    "decided",
    "doing",
    "go_back",
    "inspected",
    "live_line",
    "live_panel",
    "named",
    "newest_step",
    "open_catalog",
    "planned_of",
    "report_so_far",
    "require_run",
    "runs_in",
    "step_number",
    "to_verify",
    "verify_row",
    "while_it_trains",
]
