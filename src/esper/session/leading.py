"""Rank 0 of several: a session like any other, whose calls the other ranks follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from esper.checkpoint import Generator
from esper.nissa import rank_events
from esper.session.assembly import Assembly
from esper.session.finish import Result
from esper.session.growing_together import LeadingGrowing
from esper.session.known import known_of
from esper.session.metrics import Metric
from esper.session.ranks import Ranks
from esper.session.session import Session
from esper.session.shared import BEGIN
from esper.session.standing import COUNTED, METRICS, are_apart, joined, of_session

_Done = TypeVar("_Done")


class Leader(Session):
    """The session of rank 0."""

    def __init__(self, parts: Assembly, ranks: Ranks, generators: Mapping[str, Generator]) -> None:
        super().__init__(parts)
        self._ranks, self._generators = ranks, generators
        self._is_told_apart = False  # that ranks have measured other numbers
        assert isinstance(parts.growing, LeadingGrowing)  # noqa: S101 (so it was assembled)
        parts.growing.lead = self._lead
        what = {"terms": parts.terms.state(), "anatomy": parts.network.anatomy.digest}
        ranks.order(BEGIN, what, _nothing)
        self.log.tell(rank_events.TrainedTogether(len(ranks)))

    def end_epoch(self, **metrics: Metric) -> None:
        self._lead("end_epoch", partial(self._end, super().end_epoch), metrics)

    def end_step(self, **metrics: Metric) -> bool:
        if not self.is_due:
            return super().end_step(**metrics)
        return self._lead("end_step", partial(self._end, super().end_step), metrics)

    def rollback(self, to_step: int | None = None) -> int:
        return self._lead(f"rollback({to_step})", partial(super().rollback, to_step))

    def veto(self, why: str) -> None:
        self._lead(f"veto({why})", partial(super().veto, why))

    def close_breaker(self) -> None:
        self._lead("close_breaker", super().close_breaker)

    def finish(self, *, latency: bool = True) -> Result:
        return self._lead(
            f"finish({latency})", partial(self._finish, partial(super().finish, latency=latency))
        )

    def _lead(
        self, call: str, work: Callable[[], _Done], metrics: Mapping[str, Metric] | None = None
    ) -> _Done:
        self._require_running()

        def note() -> Mapping[str, Any]:
            if metrics is not None:
                self._metrics.report(metrics, self.step, is_over=True)
            here = (self.parts.network, self.growing, self.teaching, self._metrics)
            return of_session(call, self.step, *here, self._generators)

        done: _Done = self._ranks.lead(note, work, partial(known_of, self))
        if metrics is not None and self.parts.telemetry.counts is not None:
            self.parts.telemetry.counts.waited(self._ranks.waited_seconds)
        return done

    def _end(self, end: Callable[[], _Done]) -> _Done:
        measured = [note[METRICS] for note in self._ranks.notes]
        if not self._is_told_apart and are_apart(measured, self.metric):
            self._is_told_apart = True
            self.log.tell(rank_events.MeasuredApart(self.metric))
        self._metrics.load(joined(measured))
        self._hear()
        return end()

    def _hear(self) -> None:
        """Takes what the others have counted."""
        notes = self._ranks.notes
        self.parts.telemetry.of_others = [one for note in notes for one in note.get(COUNTED, ())]

    def _finish(self, finish: Callable[[], Result]) -> Result:
        self._hear()
        self.parts.network.set_buffers(dict(self.parts.network.model.named_buffers()))  # ranks have their own
        return finish()


def _nothing() -> None:
    """The others take it in; rank 0 knows it."""
