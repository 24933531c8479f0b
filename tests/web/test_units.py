"""Units as cells: binned where there are many, marked by more than color, reachable by keyboard."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from esper.runs import checkpoint_at
from esper.runs.network import GroupCells, UnitMap, unit_map
from esper.web.units import drawn
from tests.session.runs import Training
from tests.web.served import served

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def cells(count: int) -> UnitMap:
    """A network of two groups; of the second one unit in two is masked, and it has grown."""
    rank = np.linspace(0.0, 1.0, count)
    rank[0] = np.nan
    first = GroupCells("a<b", "channel", count, rank, np.zeros(count), False)
    second = GroupCells("grown", "channel", 4, np.full(4, 0.5), np.array([0.0, 1.0, 0.0, 1.0]), True)
    return UnitMap((first, second), 1, count + 4, 3, 7)


def test_every_cell_is_a_byte_and_the_table_says_the_same() -> None:
    text = drawn(cells(101))
    found = re.search(r'data-cells="([^"]+)" data-groups="([^"]+)"', text)
    assert found is not None
    codes = base64.b64decode(found[1])
    assert codes[:3] == bytes([0, 2, 3])
    assert codes[-4:] == bytes([51, 179, 51, 179])
    assert json.loads(unescape(found[2]))[0]["name"] == "a<b"
    for words in ("105 units", "epoch 7", "no cells any more: 3 units", "a&lt;b"):
        assert words in text
    assert "Each cell stands for" not in text


def test_a_run_is_mapped_as_its_checkpoint_ranks_it(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    training.until_masked()
    training.session.detach()
    catalog, checkpoint = checkpoint_at(tmp_path / "run")
    found = unit_map(catalog, checkpoint)
    assert found.units == sum(group.width for group in found.groups)
    assert sum(float(group.masked.sum()) for group in found.groups) > 0
    ranks = np.concatenate([group.rank for group in found.groups])
    assert np.nanmax(ranks) <= 1.0
    assert np.isfinite(ranks).any()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: make setup-system")
def test_a_large_map_is_drawn_and_told_by_keyboard(tmp_path: Path) -> None:
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
                put(place, "<section>" + html + "</section>");
                return (performance.now() - begun) / 1000;
            }""",
            drawn(cells(12_000)),
        )
        assert seconds < 2
        page.locator("canvas").focus()
        page.keyboard.press("PageDown")
        page.keyboard.press("ArrowRight")
        said = page.locator(".unit-said").text_content()
        assert said == "grown, unit 1: importance 50 of 100, masked, grown."
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.close()
    assert problems == []
