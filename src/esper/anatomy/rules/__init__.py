"""What each class of operators says about labels; an operator without a rule freezes what it touches."""

from esper.anatomy.rules.call import Call, Notes, Product, Read, Result, Rule
from esper.anatomy.rules.routing import pointing
from esper.anatomy.rules.table import RULES

__all__ = ["RULES", "Call", "Notes", "Product", "Read", "Result", "Rule", "pointing"]
