from __future__ import annotations

from esper.narset.bypass import MAX_PER_MINUTE, Capped
from esper.nissa import Event, ListSink, events, progress


def test_a_flood_of_problems_is_cut_off_counted_and_told_once_and_news_still_come() -> None:
    heard, now = ListSink(), [0.0]
    told: list[Event] = []
    capped = Capped([heard], told.append, lambda: now[0])
    for number in range(MAX_PER_MINUTE + 30):
        capped.emit(events.SinkFailed(f"sink {number}", "why"))
    assert len(heard.events) == MAX_PER_MINUTE
    assert capped.held_back == 30
    assert told == [progress.ProblemsHeldBack(MAX_PER_MINUTE)]
    capped.emit(told[0])
    capped.emit(progress.Finished(1))
    assert len(heard.events) == MAX_PER_MINUTE + 2
    now[0] = 61.0
    capped.emit(events.SinkFailed("later", "why"))
    assert len(heard.events) == MAX_PER_MINUTE + 3
