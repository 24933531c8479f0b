"""Units as cells: what is known of each, shared where there are many, told by keyboard and pointer."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from esper.runs import Audited, checkpoint_at
from esper.runs.network import CellState, Fate, LayerCells, UnitMap, UnitMaps
from esper.web.units import drawn
from tests.session.runs import Training
from tests.web.served import served

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def layer(name: str, count: int, *, per_cell: int = 1, is_grown: bool = False, cut: int = 0) -> LayerCells:
    """A column whose last two cells are masked, and one before them not measured; `cut` more are gone."""
    nothing = np.full(count + cut, np.nan)
    rank, state = nothing.copy(), np.zeros(count + cut, np.uint8)
    rank[: count - 3] = np.linspace(1.0, 0.0, count - 3)
    state[count - 2 :], state[count:] = CellState.MASKED, CellState.CUT
    unit, rise = np.full(count + cut, -1), nothing.copy()
    if per_cell == 1:
        unit[:count], rise[0] = np.arange(count)[::-1], 0.25
    return LayerCells(
        name, "channel", (name, "side"), count * per_cell, cut * per_cell, is_grown, (0.0, 0.5, 1.0),
        per_cell, state, np.full(count + cut, per_cell), unit, rank, rise, rise / 2,
        {0: Fate(5, False, "stays: <why>", 0.5, 0.25)} if per_cell == 1 else {},
        {("stays: <why>", 5): 4}, {3: cut} if cut else {},
    )  # fmt: skip


def network(*layers: LayerCells) -> UnitMap:
    units, cut = (sum(number) for number in zip(*((one.width, one.cut or 0) for one in layers), strict=True))
    return UnitMap(layers, (("fc", 10, "reaches an <output>"),), units, cut, 7, "")


def test_cells_and_tables_say_the_same_and_nothing_of_it_is_markup() -> None:
    text = drawn(network(layer("a</script>", 8, cut=2), layer("wide", 300, per_cell=9)), ["<doubt>"])
    assert "</script>" in text.partition("unit-cells")[2]
    found = re.search(r'class="unit-cells">(.*?)</script>', text)
    assert found is not None
    first, second = json.loads(found[1])["layers"]
    assert first["name"] == "a</script>"
    assert first["rank"] == [100, 75, 50, 25, 0, -1, -1, -1, -1, -1]
    assert first["state"] == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]
    assert first["fates"] == {"0": [0, 5, 0.5, 0.25]}
    assert (set(second["unit"]), set(second["count"]), second["fates"]) == ({-1}, {9}, {})
    told = "8 of 10 channels left; 2 of them masked; 2 cut out (2 decided after epoch 3); 1 not measured"
    for words in (
        told,
        "up to 9 units",
        "&lt;doubt&gt;",
        "a&lt;/script&gt;",
        "reaches an &lt;output&gt;",
        "of 4 the decision after epoch 5 says: stays: &lt;why&gt;",
    ):
        assert words in text
    unknown = replace(network(layer("a", 8)), cut=None)
    assert "how many were cut out before is not known" in drawn(unknown)


def test_a_run_is_mapped_with_what_its_decisions_said_of_units_that_are_there_and_masked(
    tmp_path: Path,
) -> None:
    training = Training(tmp_path / "run")
    training.until_masked()
    training.session.detach()
    masked = UnitMaps().at(*checkpoint_at(tmp_path / "run"), Audited.at(tmp_path / "run").entries())
    gone = 0
    for one in masked.layers:
        assert sum(one.count[one.state != CellState.CUT]) == one.width
        for cell in np.flatnonzero(one.state == CellState.MASKED):
            assert one.fates[int(cell)].is_chosen
            gone += 1
    assert gone > 0
    assert any(
        not fate.is_chosen and "stays" in fate.why for one in masked.layers for fate in one.fates.values()
    )
    known = [one for one in masked.layers if np.isfinite(one.rise).any()]
    assert known
    assert all((one.error[np.isfinite(one.error)] >= 0).all() for one in known)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: make setup-system")
def test_a_large_map_is_drawn_and_told_by_keyboard_and_pointer(tmp_path: Path) -> None:
    with served(tmp_path) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        seconds = page.evaluate(
            """html => {
                const place = document.getElementById("main");
                const begun = performance.now();
                put(place, html);
                return (performance.now() - begun) / 1000;
            }""",
            drawn(
                network(layer("first", 8, cut=2), *[layer(f"wide.{n}", 223, per_cell=9) for n in range(50)])
            ),
        )
        assert seconds < 2
        canvas, said = page.locator("canvas"), page.locator(".unit-said")
        canvas.focus()
        assert said.inner_text().startswith(
            "channel 7: kept, importance 100 of 100; without it the loss is expected to change by 0.25 ± "
            "0.125 (one standard error); after epoch 5 decided: stays: <why> (measured change of the loss "
            "0.5, below the cut in 25 % of resamples).\nfirst: 8 of 10 channels left"
        )
        words = []
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "PageDown"):
            page.keyboard.press(key)
            words.append(said.inner_text().partition("\n")[0])
        assert (
            words[4]
            == "channel 2: kept, importance not measured; no decision that is known has looked at it."
        )
        assert words[5] == "channel 1: masked; no decision that is known has looked at it."
        assert words[6] == "9 channels: kept, importance 100 of 100 on average."
        page.keyboard.press("End")
        assert page.locator(".units").evaluate("box => box.scrollLeft") > 1000
        canvas.click(position={"x": 150, "y": 10})
        assert said.inner_text().startswith("9 channels: kept, importance 100 of 100 on average.\nwide.4")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert problems == []
