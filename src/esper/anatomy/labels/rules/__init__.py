"""What every operator does to labels: one rule per form of operator, which knows no network."""

from esper.anatomy.labels.rules.call import Call, Notes, Product, Result, Rule
from esper.anatomy.labels.rules.routing import pointing
from esper.anatomy.labels.rules.table import RULES

__all__ = ["RULES", "Call", "Notes", "Product", "Result", "Rule", "pointing"]
