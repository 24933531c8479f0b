"""Training under Esper: a run is attached to or resumed, told of every epoch, and finished."""

from esper.session.attach import attach, resume
from esper.session.companions import GivenCompanions
from esper.session.finish import Result
from esper.session.metric_names import direction_of
from esper.session.metrics import FROM_PROBE
from esper.session.session import Session
from esper.session.together import refused_by_all
from esper.session.unfinished import tell_unfinished

__all__ = [
    "FROM_PROBE",
    "GivenCompanions",
    "Result",
    "Session",
    "attach",
    "direction_of",
    "refused_by_all",
    "resume",
    "tell_unfinished",
]
