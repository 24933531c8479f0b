"""Networks with evidence and an allowance, for plans to be made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from esper.anatomy import Anatomy
from esper.elesh import Evidence
from esper.emrakul.plan.plan import Plan
from esper.emrakul.schedule import Allowance
from esper.emrakul.settings import Settings
from esper.leyline import Level
from tests.emrakul.networks import anatomies, measured

HALF = Settings.model_validate({"target": {"flops": 0.5}})
LEVELS = (Level.CHANNEL, Level.HEAD)


def allowance(goal: float, limit: float | None = None, levels: tuple[Level, ...] = LEVELS) -> Allowance:
    return Allowance(
        "flops", goal, goal + 0.02 if limit is None else limit, levels, "ramp", "because a test says so"
    )


def everything(anatomy: Anatomy) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.ones(anatomy.num_units, np.bool_)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Anatomy, Evidence, Allowance, Settings]:
    anatomy = draw(anatomies)
    evidence = measured(anatomy, draw(st.integers(0, 10**6)), unmeasured=draw(st.sampled_from([0.0, 0.3])))
    if draw(st.booleans()):  # many ties
        evidence = replace(evidence, loss_increase=np.round(evidence.loss_increase, 2))
    goal = draw(st.floats(0, 0.9))
    settings = Settings.model_validate(
        {
            **draw(st.sampled_from([{"target": {"flops": 0.5}}, {"staged": True}])),
            "plan": {
                "round_to": draw(st.sampled_from([1, 2, 4, 8])),
                "allowed_loss_increase": draw(st.none() | st.floats(0, 0.05)),
                "max_layer_fraction": draw(st.sampled_from([None, 0.1, 0.4])),
                "required_confidence": draw(st.sampled_from([None, 0.95])),
            },
            "floors": {"min_channels": draw(st.integers(1, 16))},
        }
    )
    levels = draw(st.sampled_from([LEVELS, (Level.CHANNEL,), (Level.HEAD,)]))
    return (
        anatomy,
        evidence,
        allowance(goal, goal + draw(st.sampled_from([0.0, 0.02, 0.1])), levels),
        settings,
    )


def kept_counts(anatomy: Anatomy, plan: Plan) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.bincount(anatomy.group_of[plan.keep], minlength=len(anatomy.groups))
