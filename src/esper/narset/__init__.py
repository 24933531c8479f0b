"""Telemetry in tiers: many values become one summary, and summaries add up exactly."""

from esper.narset.bypass import Capped
from esper.narset.region import Region
from esper.narset.summary import Summary, merged, spread_of
from esper.narset.wire import message_of, summaries_of

__all__ = ["Capped", "Region", "Summary", "merged", "message_of", "spread_of", "summaries_of"]
