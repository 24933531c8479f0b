"""Training under Esper: attach, three calls, resume, and loading what came out of it."""

from esper.anatomy import inspect
from esper.session.attach import attach, resume
from esper.session.compact import compact
from esper.session.compacted import Compacted
from esper.session.finish import Result
from esper.session.loading import load
from esper.session.session import Session

__all__ = ["Compacted", "Result", "Session", "attach", "compact", "inspect", "load", "resume"]
