"""Growing under several processes: a call of the script is one on every rank, and is done by all at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from esper.kasmina import LiveNetwork
from esper.kasmina.seeds import GateResult, GrowthSettings
from esper.session.growing import Growing
from esper.session.lockstep import RankWorld
from esper.session.log import RunLog
from esper.session.ranks import Ranks

_ACTS: Mapping[str, Callable[..., Any]] = {
    "grow": Growing.grow,
    "try_out": Growing.try_out,
    "prepare": Growing.prepare,
    "places": Growing.places,
    "check_wish": Growing.check_wish,
    "cull": Growing.cull,
    "pause": Growing.pause,
    "unpause": Growing.unpause,
    "close_breaker": Growing.close_breaker,
    "end_epoch": Growing.end_epoch,
    "end_run": Growing.end_run,
}
"""What a process does with its own seeds when all do it."""


class GrowingTogether(Growing, ABC):
    """The seeds of a session of several processes: every rank has them, and does with them the same.

    Whatever reaches seeds goes through `_all`, and there the ranks part: rank 0 leads, the others follow.
    """

    _obstacle = ""

    def grow(self, path: str, blueprint: str = "auto", **wish: Any) -> GateResult:
        done: GateResult = self._all("grow", {"path": path, "blueprint": blueprint, **wish}, is_sowing=True)
        return done

    def try_out(self, pattern: str = "auto", blueprint: str = "auto", **wish: Any) -> dict[str, GateResult]:
        what = {"pattern": pattern, "blueprint": blueprint, **wish}
        done: dict[str, GateResult] = self._all("try_out", what, is_sowing=True)
        return done

    def prepare(self, pattern: str = "auto", blueprint: str = "auto", **options: Any) -> None:
        self._all("prepare", {"pattern": pattern, "blueprint": blueprint, **options})

    def places(self, pattern: str = "auto") -> list[str]:
        found: list[str] = self._all("places", {"pattern": pattern})
        return found

    def check_wish(self, pattern: str | None, blueprint: str, options: Mapping[str, Any]) -> None:
        self._all("check_wish", {"pattern": pattern, "blueprint": blueprint, "options": dict(options)})

    def cull(self, path: str, why: str = "Culled by hand.") -> None:
        self._all("cull", {"path": path, "why": why})

    def pause(self, path: str) -> None:
        self._all("pause", {"path": path})

    def unpause(self, path: str) -> None:
        self._all("unpause", {"path": path})

    def close_breaker(self) -> None:
        if self.has_begun:
            self._all("close_breaker", {})
        else:  # only rank 0 has anything that could be open
            super().close_breaker()

    def end_epoch(self, epochs_left: int | None) -> None:
        if self.has_begun:
            self._all("end_epoch", {"epochs_left": epochs_left})

    def end_run(self) -> str:
        changed: str = self._all("end_run", {}) if self.has_begun else ""
        return changed

    def obstacle(self) -> str:
        """As rank 0 has found it; it alone can make the network whole."""
        return self._obstacle

    def do(self, name: str, what: Mapping[str, Any], epoch: int, obstacle: str) -> Any:
        """Does one of these calls in this process, as all do just now.

        Args:
            name: of the call.
            what: its arguments.
            epoch: epochs that have ended.
            obstacle: why nothing may germinate; '' if it may, or nothing is to.
        """
        self._log.progress.epoch, self._obstacle = epoch, obstacle
        return _ACTS[name](self, **what)

    @abstractmethod
    def _all(self, name: str, what: Mapping[str, Any], *, is_sowing: bool = False) -> Any:
        """Lets all ranks do one of these calls at once.

        Args:
            name: of the call.
            what: its arguments.
            is_sowing: whether something is to germinate, for which the network has to be whole.
        """


class LeadingGrowing(GrowingTogether):
    """On rank 0: decides, and orders.

    Args:
        ranks: all of them.
        given: as for `Growing`.
    """

    def __init__(self, ranks: Ranks, *given: Any) -> None:
        super().__init__(*given)
        self._ranks = ranks
        self.lead: Callable[[str, Callable[[], Any]], Any]
        """Makes a call one of all ranks; the session says how, before the first one."""

    def _all(self, name: str, what: Mapping[str, Any], *, is_sowing: bool = False) -> Any:
        def ordered() -> Any:
            if name not in ("end_epoch", "end_run", "close_breaker"):
                self.require_possible()
            obstacle = Growing.obstacle(self) if is_sowing else ""
            told: dict[str, Any] = {"what": dict(what), "epoch": self._log.epoch, "obstacle": obstacle}
            return self._ranks.order(order_of(name), told, partial(self.do, name, **told))

        return self.lead(_call(name, what), ordered)


class FollowingGrowing(GrowingTogether):
    """On the other ranks: does what rank 0 orders; a script calls it as it does there.

    Args:
        follow: makes a call with the others.
        ranks: all of them.
        model: the network, in its `DistributedDataParallel`.
        scaler: as for `Growing`.
        network: likewise.
        settings: likewise.
        log: likewise.
    """

    why_never = ""
    """Rank 0 knows, and says it."""

    def __init__(
        self,
        follow: Callable[[str], object],
        ranks: Ranks,
        model: nn.Module,
        scaler: Any,
        network: LiveNetwork,
        settings: GrowthSettings,
        log: RunLog,
    ) -> None:
        super().__init__(network, None, None, settings, log, scaler, None, RankWorld(ranks, model))
        self._follow, self._done = follow, None

    @property
    def acts(self) -> dict[str, Callable[..., Any]]:
        """What rank 0 can order of it, by name."""
        return {order_of(name): partial(self.do, name) for name in _ACTS}

    def do(self, name: str, what: Mapping[str, Any], epoch: int, obstacle: str) -> Any:
        self._done = super().do(name, what, epoch, obstacle)
        return self._done

    def _all(self, name: str, what: Mapping[str, Any], *, is_sowing: bool = False) -> Any:  # noqa: ARG002
        self._follow(_call(name, what))
        return self._done


def growing_of(ranks: Ranks | None, model: nn.Module, *given: Any) -> Growing:
    """The seeds of rank 0, or of the only process; see `Growing` for what is given."""
    return Growing(*given) if ranks is None else LeadingGrowing(ranks, *given, RankWorld(ranks, model))


def order_of(name: str) -> str:
    """Under which rank 0 orders a call."""
    return f"growing.{name}"


def _call(name: str, what: Mapping[str, Any]) -> str:
    """A call in words, to be compared between ranks."""
    return f"growing.{name}({', '.join(f'{key}={value!r}' for key, value in what.items())})"
