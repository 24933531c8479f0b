"""Files that others wrote, made into files that are safe to load."""

from esper.runs.foreign.bringing import Brought, bring

__all__ = ["Brought", "bring"]
