"""Which units go: pure functions from scores, floors and costs to a plan."""

from esper.emrakul.plan.by_loss import choose_by_loss
from esper.emrakul.plan.by_magnitude import choose_by_magnitude
from esper.emrakul.plan.cutting import worthwhile_cut
from esper.emrakul.plan.finalists import finalists, removable
from esper.emrakul.plan.floors import fewest_left, floors, layers_to_go
from esper.emrakul.plan.offers import next_offer, with_leeway
from esper.emrakul.plan.plan import Plan, Rejection
from esper.emrakul.plan.ramp_end import bounds
from esper.emrakul.plan.rationale import CHOSEN, Rationale
from esper.emrakul.plan.selection import make_plan, plan_step
from esper.emrakul.plan.shrinking import largest_version, shrink
from esper.emrakul.plan.situation import Situation, alike

__all__ = [
    "CHOSEN",
    "Plan",
    "Rationale",
    "Rejection",
    "Situation",
    "alike",
    "bounds",
    "choose_by_loss",
    "choose_by_magnitude",
    "fewest_left",
    "finalists",
    "floors",
    "largest_version",
    "layers_to_go",
    "make_plan",
    "next_offer",
    "plan_step",
    "removable",
    "shrink",
    "with_leeway",
    "worthwhile_cut",
]
