"""What has grown in a run, as its end tells it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from esper.cost import CostName, Origin
from esper.emrakul.plan import Situation
from esper.kasmina import LiveNetwork, SeedJoined
from esper.report import SeedRow


def parts_grown(network: LiveNetwork) -> tuple[str, ...]:
    """Paths of the seeds that are parts of the network now, in their order."""
    return tuple(change.recipe.path for change in network.changes if isinstance(change, SeedJoined))


def grown_fraction(network: LiveNetwork, origin: Origin, cost: CostName) -> float:
    """What the seeds that are parts of a network added then, as a share of what it cost at the start."""
    before = [*(change.before for change in network.changes), network.anatomy]
    removed = [Situation.whole(anatomy, origin).removed_fraction(cost) for anatomy in before]
    added = zip(network.changes, pairwise(removed), strict=True)
    return sum(then - now for change, (then, now) in added if isinstance(change, SeedJoined))


def last_grown(rows: Sequence[SeedRow]) -> tuple[int, int] | None:
    """First and last epoch of the last time that seeds were on their way; None: there was none."""
    begun: dict[str, int] = {}
    last: tuple[int, int] | None = None
    for row in rows:
        if row.after == "GERMINATED":
            begun[row.slot] = row.epoch
        elif row.after in ("EMBARGOED", "FOSSILIZED") and row.slot in begun:
            first = begun.pop(row.slot)
            is_same = last is not None and first <= last[1]
            last = (min(first, last[0]) if is_same and last is not None else first, row.epoch)
    return last
