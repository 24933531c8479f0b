"""What became of the seeds of a run, in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from esper.report.report import SeedRow

_NAMED = 3
"""Places that are named of each fate; the others are counted."""
_DORMANT, _GERMINATED, _CULLED = "DORMANT", "GERMINATED", "CULLED"


def fates(rows: Sequence[SeedRow], stayed: Sequence[str]) -> str:
    """How many seeds stayed, were culled and were refused, and where; '' if none was asked for.

    Args:
        rows: every step of every seed.
        stayed: paths of those that are parts of the network now.
    """
    culled = Counter(row.slot for row in rows if row.after == _CULLED)
    refused = Counter(row.slot for row in rows if row.before == row.after == _DORMANT)
    begun = Counter(row.slot for row in rows if row.after == _GERMINATED)
    gone = begun - culled - Counter(stayed)  # with a rollback, or because the network could not bear them
    parts = [
        f"{total} {word} ({_places(of)})"
        for word, of in (
            ("stayed", Counter(stayed)),
            ("culled", culled),
            ("taken out again", gone),
            ("refused", refused),
        )
        if (total := of.total())
    ]
    return f"Seeds: {', '.join(parts)}" if parts else ""


def _places(of: Counter[str]) -> str:
    names = [f"{path} {times} times" if times > 1 else path for path, times in of.items()]
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
