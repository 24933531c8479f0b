"""The breaker of growing: when seeds reach their host again and again, nothing germinates for a while."""

from __future__ import annotations

from typing import Any

from esper.kasmina.seeds.bed import SeedBed
from esper.kasmina.seeds.settings import GrowthSettings
from esper.leyline import Breaker, BreakerEvent, BreakerState, decode, encode
from esper.nissa import seed_events


class GrowthBreaker:
    """Whether anything may germinate on one network: a violation is a failure, a seed that is kept a success.

    Args:
        bed: holds the seeds, and tells.
        limits: what opens it, and for how long.
    """

    def __init__(self, bed: SeedBed, limits: GrowthSettings) -> None:
        self._bed, self._limits = bed, limits
        self._breaker = Breaker()

    @property
    def state(self) -> BreakerState:
        """How it stands now."""
        return self._breaker.state(self._bed.epoch, self._limits)

    @property
    def is_open(self) -> bool:
        return self.state is BreakerState.OPEN

    def obstacle(self) -> str:
        """Why nothing may germinate now; '' if something may."""
        if self.state is BreakerState.HALF_OPEN and self._bed.living():
            return "The breaker is half-open: the seed that is under way decides whether more may germinate."
        return self._breaker.obstacle(self._bed.epoch, self._limits)

    def fail(self) -> None:
        """A seed has reached the host; it is told if that opens the breaker."""
        was_open = self.is_open
        self._note(BreakerEvent.FAILURE)
        if self.is_open and not was_open:
            self._bed.tell(seed_events.GrowingStopped(self._bed.epoch, self.obstacle()))

    def succeed(self) -> None:
        """A seed becomes a part of the network."""
        self._note(BreakerEvent.SUCCESS)

    def close(self) -> None:
        """The operator's word that seeds may germinate."""
        self._note(BreakerEvent.BY_HAND)

    def saved(self) -> Any:
        """What it remembers, in plain values."""
        return encode(self._breaker)

    def load(self, saved: Any) -> None:
        """Takes up what was saved, unless more is known here: a run that goes back forgets no failures."""
        if saved is not None and self._breaker == Breaker():
            self._breaker = decode(Breaker, saved)

    def _note(self, event: BreakerEvent) -> None:
        self._breaker = self._breaker.after(event, self._bed.epoch, self._limits)
