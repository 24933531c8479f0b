"""The state that optimizers keep of parameters, and how it follows a cut."""

from esper.anatomy.cut.optimizers.state import (
    StateLayouts,
    WeightCopies,
    cut_state,
    named,
    refusal_of,
    zero_state,
)

__all__ = ["StateLayouts", "WeightCopies", "cut_state", "named", "refusal_of", "zero_state"]
