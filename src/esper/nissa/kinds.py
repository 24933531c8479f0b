"""What the kinds of events in a file mean to a report, for readers that have only their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from esper.nissa import (
    acts,
    assumed,
    events,
    given_events,
    kernel_events,
    mail_events,
    metric_events,
    progress,
    promises,
    rank_events,
    seed_events,
    teacher_events,
)
from esper.nissa.event import Event, MarkKind, Moment, kind_of

_MODULES = (
    acts,
    assumed,
    events,
    given_events,
    kernel_events,
    mail_events,
    metric_events,
    progress,
    promises,
    rank_events,
    seed_events,
    teacher_events,
)


def _classes() -> Iterator[type[Event]]:
    """Every event that can happen."""
    for module in _MODULES:
        for thing in vars(module).values():
            if isinstance(thing, type) and issubclass(thing, Event) and thing.__module__ == module.__name__:
                yield thing


MARKS: Mapping[str, MarkKind] = {
    kind_of(event): event.kind for event in _classes() if issubclass(event, Moment) and event.kind is not None
}
"""The mark in the picture of a run that an event makes, by the name of its class in files."""

NOTED: frozenset[str] = frozenset(
    kind_of(event) for event in _classes() if event.is_noted and kind_of(event) not in MARKS
)
"""Those that make a note instead."""

OF_SEEDS: frozenset[str] = frozenset(
    kind_of(event) for event in _classes() if issubclass(event, seed_events.OfSeed)
)
"""Those that are a step of a seed."""
