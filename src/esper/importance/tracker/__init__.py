"""What training measures of every unit while it runs, and what that costs."""

from esper.importance.tracker.tracked import TrackedEvidence
from esper.importance.tracker.tracker import ImportanceTracker

__all__ = ["ImportanceTracker", "TrackedEvidence"]
