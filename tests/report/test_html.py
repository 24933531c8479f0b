"""The page of a run, read by an HTML parser."""

from __future__ import annotations

import dataclasses
import itertools
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from esper.report.blocks import pill
from esper.report.charts import quality_chart
from esper.report.html import render_html, write_report
from esper.report.report import (
    NOT_APPLIED,
    DecisionRow,
    EpochRow,
    Latency,
    Mark,
    RunReport,
    SeedRow,
    WidthRow,
    WorkerRow,
)
from tests.report.example import bare_report, full_report

VOID = {"meta"}


class Page(HTMLParser):
    """The elements of a page; fails when a tag is closed that was not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.mark.parametrize("report", [full_report(), bare_report()], ids=["full", "bare"])
def test_every_element_that_is_opened_is_closed(report: RunReport) -> None:
    assert Page(render_html(report)).open == []


def test_the_page_loads_nothing_from_elsewhere_and_runs_no_script() -> None:
    html = render_html(full_report())
    page = Page(html)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
    assert not {"src", "href"} & {name for _, attributes in page.elements for name in attributes}
    assert "://" not in html
    assert "@import" not in html


def test_a_spread_that_is_wider_than_the_chart_is_cut_and_the_difference_told_as_noise() -> None:
    noisy = Latency(64, 1.42, 0.9, 19.9, 9.7, "cpu", 30)
    page = Page(render_html(dataclasses.replace(full_report(), latency=noisy)))
    whiskers = [attributes for tag, attributes in page.elements if tag == "u"]
    for whisker in whiskers:
        left, width = (float(part.split(":")[1].rstrip("%")) for part in str(whisker["style"]).split(";"))
        assert left >= 0
        assert left + width <= 100.01
        assert whisker["class"] == "more-before more-after"
    assert len(whiskers) == 2
    assert "1.58x faster by the medians, which is within the noise: they differ by 0.52 ms" in page.text
    assert "within the noise of the timings; batch of 64, cpu" in page.text
    assert "within the noise" not in Page(render_html(full_report())).text


def test_the_headline_says_by_how_much_the_network_became_smaller() -> None:
    text = Page(render_html(full_report())).text
    assert "FLOPs −57 % 18.4 M → 7.91 M" in text
    assert "Latency 1.83x faster 31.4 ms → 17.2 ms" in text
    assert "Accuracy 97.40 % 97.60 % → 97.40 %" in text
    assert "uncut twin at the end: 97.60 %" in text


def test_what_was_not_measured_is_said_and_never_shown_as_zero() -> None:
    text = Page(render_html(bare_report())).text
    for name in ("Latency", "Loss", "Proof of equality", "What Esper cost"):
        assert f"{name} not measured" in text


def test_a_metric_that_no_epoch_measured_has_no_axis() -> None:
    rows = tuple(dataclasses.replace(row, metrics={}) for row in full_report().epochs)
    report = dataclasses.replace(full_report(), epochs=rows, twin_epochs=())
    chart = quality_chart(report)
    assert "not measured" in chart
    assert "mask applied" in chart  # what Esper did is still to be seen
    assert 'class="grid"' not in chart


def test_what_was_accepted_and_never_done_is_not_drawn_as_good() -> None:
    assert pill("go") == '<span class="pill good">go</span>'
    assert pill(f"go{NOT_APPLIED}") == '<span class="pill warn">go, not applied</span>'


def test_evidence_that_was_not_measured_is_said_in_the_decision() -> None:
    decision = DecisionRow(3, "conv", "channel", 1, None, None, None, "no_go", "no evidence")
    text = Page(render_html(dataclasses.replace(bare_report(), decisions=(decision,)))).text
    assert "3 conv 1 channel not measured not measured not measured no-go no evidence" in text


def test_the_reason_of_a_decision_stands_once_beside_the_evidence_of_every_group() -> None:
    rows = tuple(DecisionRow(2, name, "channel", 2, 0.1, 0.99, 0.2, "no_go", "too costly") for name in "abc")
    page = Page(render_html(dataclasses.replace(bare_report(), decisions=rows)))
    assert page.text.count("too costly") == 1
    assert [a["rowspan"] for tag, a in page.elements if tag == "td" and "rowspan" in a] == ["3", "3", "3"]


def test_every_worker_says_what_became_of_its_tasks() -> None:
    text = Page(render_html(full_report())).text
    assert "0 118 0 0 412 MiB ok" in text
    assert "1 97 1 2 not measured failing It was not done after 60 seconds" in text
    assert "Analysis workers" not in Page(render_html(bare_report())).text


def test_words_from_the_run_are_escaped_wherever_they_stand() -> None:
    evil = "<script>alert('x')</script>&\"$title"
    report = dataclasses.replace(
        full_report(),
        title=evil,
        model=evil,
        metric=evil,
        epochs=(EpochRow(1, 1, {evil: 0.5}, 1.0, 1, 0, 1.0),),
        marks=(Mark(1, "mask", evil),),
        widths=(WidthRow(evil, evil, 2, 1),),
        decisions=(DecisionRow(1, evil, evil, 2, 0.1, 0.9, 0.1, evil, evil),),
        workers=(WorkerRow(0, 1, 1, 1, 1, evil, evil),),
        environment={evil: evil},
        notes=(evil,),
    )
    page = Page(render_html(report))
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.text.count("alert") >= 10


def test_each_mark_is_drawn_in_its_lane_and_told_in_the_tooltip() -> None:
    page = Page(render_html(full_report()))
    drawn = [attributes["class"] for tag, attributes in page.elements if tag == "g"]
    assert sorted(str(name) for name in drawn) == sorted(f"mark {mark.kind}" for mark in full_report().marks)
    assert "rolled back: accuracy fell by 3.1 points; back to step 504" in page.text


@pytest.mark.parametrize("number", [1, 2, 200])
def test_a_run_of_any_length_is_drawn_inside_its_frame(number: int) -> None:
    rows = tuple(
        EpochRow(n, n, {"loss": 0.5 if n % 7 else math.nan}, 10.0 / n, 4, 0, 1.0)
        for n in range(1, number + 1)
    )
    page = Page(render_html(dataclasses.replace(bare_report(), epochs=rows, twin_epochs=rows)))
    assert page.open == []
    bars = [a for tag, a in page.elements if tag == "rect" and a["class"] == "hover"]
    assert len(bars) == 2 * number
    assert all(0 <= float(str(bar["x"])) + float(str(bar["width"])) <= 960 for bar in bars)


def test_writing_a_report_leaves_the_page_and_the_numbers_behind(tmp_path: Path) -> None:
    page = write_report(full_report(), tmp_path)
    assert page == tmp_path / "report.html"
    assert page.read_text(encoding="utf-8") == render_html(full_report())
    assert RunReport.read(tmp_path / "report.json") == full_report()


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (("GERMINATED", "FOSSILIZED", "TERMINATED"), "block: 1 seed, the last one a part of the network"),
        (("GERMINATED", "CULLED", "DORMANT"), "block: 1 seed, the last one dormant"),
        (("GERMINATED", "CULLED", "GERMINATED", "BLENDING"), "block: 2 seeds, the last one blending"),
        (("DORMANT",), "block: none germinated"),
    ],
)
def test_a_place_says_what_became_of_its_seeds(way: tuple[str, ...], said: str) -> None:
    steps = enumerate(itertools.pairwise(("DORMANT", *way)))
    rows = [SeedRow(epoch, "block", "conv", before, after, "") for epoch, (before, after) in steps]
    rows.append(SeedRow(9, "block", "conv", "DORMANT", "DORMANT", "Refused."))  # which no seed came of
    page = render_html(dataclasses.replace(full_report(), seeds=tuple(rows), programs=3))
    assert f"<h3>{said}</h3>" in page
    assert "While one was on its way, torch.compile made 3 programs." in page
