"""Whether a target can be reached at all, whatever is trained, and what holds the rest."""

from __future__ import annotations

from esper.compaction import what_holds
from esper.emrakul.plan import fewest_left
from esper.kasmina import LiveNetwork
from esper.nissa import given_events
from esper.session.assembly import Assembly
from esper.session.terms import Terms


def tell_reach(parts: Assembly) -> None:
    """Tells people where a run that prunes begins with a target out of reach."""
    target = parts.terms.config.pruning.target
    if parts.pool is None or target is None:
        return
    if reach := out_of_reach(parts.network, parts.terms):
        parts.log.tell(given_events.TargetOutOfReach(target.cost, target.fraction, *reach))


def out_of_reach(network: LiveNetwork, terms: Terms) -> tuple[float, str] | None:
    """The largest share of the target's cost that can go, and what holds the rest; None if it is enough.

    Everything that the code lets go is counted as gone, down to the floors. Latency is not foreseen: what a
    width takes is measured, and less is not always faster.
    """
    settings = terms.config.pruning
    target = settings.target
    if target is None or target.cost == "latency":
        return None
    situation = terms.situation(network)
    keep = fewest_left(situation, settings)
    most = situation.under(keep).removed_fraction(target.cost)
    if most >= target.fraction - 1e-9:
        return None
    return most, what_holds(network.seen.traced, situation, keep, settings, network.refused)
