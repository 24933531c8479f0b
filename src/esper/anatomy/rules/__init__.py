"""What each class of operators says about labels; an operator without a rule freezes what it touches."""

from esper.anatomy.rules import contraction, movement, pointwise, reduction
from esper.anatomy.rules.call import Call, Notes, Product, Read, Result, Rule

RULES: dict[str, Rule] = {**pointwise.RULES, **movement.RULES, **reduction.RULES, **contraction.RULES}

__all__ = ["RULES", "Call", "Notes", "Product", "Read", "Result", "Rule"]
