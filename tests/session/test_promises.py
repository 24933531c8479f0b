"""A broken promise is told once, and again only after it was kept for some epochs."""

from __future__ import annotations

from esper.nissa import Event, ListSink, progress
from esper.nissa import promises as told
from esper.session.promises import PromiseWatch


def ended(epoch: int, stall: float, *, running: float = 10.0) -> progress.EpochEnded:
    return progress.EpochEnded(
        epoch, epoch, {}, 1.0, 1, 0, 1.0, 1.0, running, None, None, stall, None, 5_000_000_000
    )


def test_it_is_told_when_it_breaks_and_when_it_is_kept_again_and_not_between() -> None:
    heard = ListSink()
    watch = PromiseWatch(heard.emit)
    stalls = [1.0, 400.0, 500.0, 1.0, 400.0, 1.0, 1.0, 1.0, 1.0, 400.0]
    for epoch, stall in enumerate(stalls, 1):
        watch.emit(ended(epoch, stall))

    def about(name: str) -> list[tuple[type[Event], int]]:
        return [
            (type(one), one.epoch)
            for one in heard.events
            if isinstance(one, (told.PromiseBroken, told.PromiseKept)) and one.promise == name
        ]

    assert about("checkpoint_overhead") == [
        (told.PromiseBroken, 2),
        (told.PromiseKept, 8),
        (told.PromiseBroken, 10),
    ]
    assert about("peak_memory_usage") == [(told.PromiseBroken, 1)]
    assert about("training_time_impact") == []  # ten seconds say nothing
    assert "400.0 s" not in heard.events[0].text
    assert "5.00 GB" in heard.events[0].text


def test_analyses_count_by_how_they_ended() -> None:
    heard = ListSink()
    watch = PromiseWatch(heard.emit)
    for number in range(3):
        watch.emit(progress.AnalysisEnded(number, "skipped", is_late=True, seconds=2.0))
    watch.emit(ended(4, 0.1, running=700.0))
    names = [one.promise for one in heard.events if isinstance(one, told.PromiseBroken)]
    assert names == ["analysis_success_rate", "peak_memory_usage"]
    assert watch.standing()[1].measured == 2.0


def test_at_its_end_a_run_is_judged_by_the_share_that_its_report_shows() -> None:
    watch = PromiseWatch(ListSink().emit)
    watch.emit(ended(1, 0.1, running=1000.0))
    share = {one.name: one for one in watch.standing((5.0, 1010.0))}["training_time_impact"]
    assert share.measured == 5.0 / 1010.0
    assert "0.50 %" in share.text
    assert "in this process" in watch.standing()[0].text
