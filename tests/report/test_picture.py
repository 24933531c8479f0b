"""The picture of a run, read by an XML parser."""

from __future__ import annotations

import dataclasses
from xml.dom.minidom import Document, parseString

from esper.report.picture import render_svg
from esper.report.report import EpochRow, RunReport
from tests.report.example import bare_report, full_report


def words_of(report: RunReport) -> tuple[Document, str]:
    read = parseString(render_svg(report))
    drawn = [node.firstChild for node in read.getElementsByTagName("text")]
    return read, " | ".join(getattr(node, "data", "") for node in drawn)


def test_it_stands_alone_and_says_what_became_of_the_network() -> None:
    read, words = words_of(full_report())
    assert "url(" not in render_svg(full_report())
    assert "ResNet-8 on 5,000 handwritten digits | FLOPs −57 % · parameters −60 % · 1.83x faster" in words
    assert "accuracy 97.40 % · uncut twin 97.60 %" in words
    for name in ("title", "desc"):  # for those who do not see it
        assert getattr(read.getElementsByTagName(name)[0].firstChild, "data", "") in words
    for name in ("href", "src"):
        assert not [tag for tag in read.getElementsByTagName("*") if tag.hasAttribute(name)]


def test_nothing_that_was_drawn_lies_below_its_edge() -> None:
    read, _ = words_of(full_report())
    outer, inner, chart = read.getElementsByTagName("svg")
    assert float(inner.getAttribute("height")) == float(chart.getAttribute("viewBox").split()[3])
    assert float(outer.getAttribute("height")) > 70 + float(inner.getAttribute("height"))


def test_what_was_not_measured_is_said_and_nothing_is_drawn() -> None:
    read, words = words_of(bare_report())
    assert words.endswith("FLOPs no change · parameters no change · loss not measured")
    assert not read.getElementsByTagName("path")


def test_names_of_others_are_words_and_no_tags() -> None:
    rows = (EpochRow(1, 1, {"loss": 1.0}, 1.0, 1, 0, 1.0), EpochRow(2, 2, {"loss": 0.5}, 1.0, 1, 0, 1.0))
    name = "a<b>&\"'"
    _, words = words_of(dataclasses.replace(bare_report(), title=name, epochs=rows))
    assert name in words


def test_ten_thousand_epochs_are_a_picture_too() -> None:
    rows = tuple(EpochRow(n, n, {"loss": 1.0 / n}, 1.0, 1, 0, 1.0) for n in range(1, 10_001))
    assert len(render_svg(dataclasses.replace(bare_report(), epochs=rows))) < 400_000


def test_what_no_file_of_xml_may_hold_is_a_sign_instead() -> None:
    _, words = words_of(dataclasses.replace(bare_report(), title="red \x1b[31m, and \udcff"))
    assert "red \N{REPLACEMENT CHARACTER}[31m, and \N{REPLACEMENT CHARACTER}" in words
