"""The pages in a real browser: both themes, both widths, live, by keyboard, without an error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.web.served import FakeRun, epoch, served, training

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: make setup-system")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


def test_pages_fit_both_widths_are_live_and_raise_no_error(browser: Browser, tmp_path: Path) -> None:
    run = training(tmp_path / "first")
    FakeRun(tmp_path / "second").tell(epoch(1), epoch(2))
    problems: list[str] = []
    with served(tmp_path) as address:
        for width in (1280, 390):
            context = browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme="dark" if width == 390 else "light"
            )
            page = context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda told: problems.append(told.text) if "Security" in told.text else None)
            page.goto(address)
            page.get_by_label("Compare first").check()
            page.get_by_label("Compare second").check()
            page.get_by_role("button", name="Compare chosen runs").click()
            expect(page.get_by_role("heading", name="Runs compared")).to_be_visible(timeout=30_000)
            page.goto(f"{address}/run?run=first")
            expect(page.locator("#live")).to_have_text("Live", timeout=30_000)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            reason = page.locator("span.reason").first.bounding_box()
            assert reason is not None
            assert reason["width"] > 250  # narrow, it makes rows higher than a phone
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.className") == "skip"
            if width == 390:
                run.tell(epoch(3, 0.7))
                expect(page.locator("#part-now")).to_contain_text("Training epoch 4 of 9", timeout=30_000)
            context.close()
    assert problems == []
