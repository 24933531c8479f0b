"""Verifying and going back from a page: who may, what people are told, and that it is what was done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import expect, sync_playwright

from esper.checkpoint import CheckpointStore, open_key_ring
from esper.cli.main import main
from esper.runs import Audited, open_catalog, step_number
from tests.web.served import get, served

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TOKEN = "a-token-of-this-test"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with the checkpoints of steps 100, 200 and 300, and a report."""
    run = tmp_path / "first"
    with CheckpointStore(run, keyring=open_key_ring(run, create=True), model="small") as store:
        for step in (100, 200, 300):
            store.save(step, step // 100, {"model.safetensors": {"weight": torch.full((4,), float(step))}})
    (run / "report.json").write_text("{}")
    return run


def steps(run: Path) -> list[int]:
    return sorted(step_number(path) for path in open_catalog(run).newest_first())


def seen(address: str, to: int) -> str:
    """What the question about a step says that it was asked about."""
    return get(f"{address}/part/rollback?run=first&to={to}")[1].partition("seen=")[2].partition('"')[0]


SHOWN = {"Authorization": f"Bearer {TOKEN}"}
REFUSED: tuple[tuple[dict[str, str], str], ...] = (
    ({}, "not the token"),
    ({"Authorization": "Bearer guessed"}, "not the token"),
    ({"Authorization": "Bearer \u00e9"}, "not the token"),
    ({"Authorization": TOKEN}, "not the token"),
    ({"Cookie": f"token={TOKEN}"}, "not the token"),
    ({**SHOWN, "Origin": "http://evil.example"}, "Only a page of this server"),
    ({**SHOWN, "Origin": "null"}, "Only a page of this server"),
    ({**SHOWN, "Sec-Fetch-Site": "same-site"}, "Only a page of this server"),
)


def test_nobody_goes_back_without_the_token_and_a_page_of_this_server(run: Path) -> None:
    with served(run.parent, TOKEN) as address:
        asked = f"{address}/rollback?run=first&to=100&seen={seen(address, 100)}"
        for headers, why in REFUSED:
            status, text = get(asked, method="POST", **{"Origin": address, **headers})
            assert (status, why in text) == (403, True), text
        assert get(f"{asked}&token={TOKEN}", **SHOWN)[0] == 405
        assert get(asked, method="POST", **SHOWN)[0] == 403
    with served(run.parent) as address:
        assert "Go back to step" not in get(f"{address}/part/checkpoints?run=first")[1]
        asked = f"{address}/rollback?run=first&to=100&seen={seen(address, 100)}"
        for headers in ({"Authorization": "Bearer "}, SHOWN):
            status, text = get(asked, method="POST", **{"Origin": address, **headers})
            assert (status, "only reads" in text) == (403, True)
    assert steps(run) == [100, 200, 300]


def test_what_is_trained_or_is_not_what_was_asked_about_is_refused_and_changes_nothing(run: Path) -> None:
    with served(run.parent, TOKEN) as address:
        headers = {"Origin": address, "Authorization": f"Bearer {TOKEN}"}
        asked = f"{address}/rollback?run=first&to=100&seen="
        agreed = asked + seen(address, 100)
        with CheckpointStore(run, keyring=open_key_ring(run), keep_last=9) as store:
            question = get(f"{address}/part/rollback?run=first&to=100")[1]
            assert "is being trained" in question
            assert "esper ask" in question
            assert "<form" not in question
            status, text = get(agreed, method="POST", **headers)
            assert status == 409
            assert "rollback --to 100" in text
            store.save(400, 4, {"model.safetensors": {"weight": torch.zeros(4)}})
        status, text = get(agreed, method="POST", **headers)
        assert status == 409
        assert "step-000000400" in text
        model = run / "checkpoints" / "step-000000100" / "model.safetensors"
        model.write_bytes(model.read_bytes()[:-1] + b"\x07")
        status, text = get(asked + seen(address, 100), method="POST", **headers)
        assert status == 409
        assert "is damaged" in text
        assert get(f"{address}/rollback?run=first&to=150&seen=", method="POST", **headers)[0] == 409
        assert get(f"{address}/rollback?run=../first&to=100&seen=", method="POST", **headers)[0] == 404
        assert steps(run) == [100, 200, 300, 400]
        *before, last = get(f"{address}/verify?run=first", method="POST", Origin=address)[1].splitlines()
    assert [json.loads(line)["done"] for line in before] == [0, 1, 2, 3]
    assert "1 of 4 damaged" in json.loads(last)["html"]
    assert (run / "report.json").is_file()


def test_other_machines_are_not_served_with_a_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path), "--host", "0.0.0.0", "--port", "0", "--allow-rollback"])
    said = " ".join(capsys.readouterr().err.split())
    assert "(`--port 8265`)" in said
    assert "`ssh -L 8265:127.0.0.1:8265`" in said


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: make setup-system")
def test_people_verify_and_go_back_in_a_browser_and_the_audit_tells_of_it(run: Path) -> None:
    with served(run.parent, TOKEN) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{address}/#token=of-an-earlier-server")
        page.get_by_role("link", name="first").click()
        page.get_by_role("button", name="Verify every byte").click(timeout=30_000)
        expect(page.locator("#verified")).to_contain_text("3 checkpoints intact", timeout=30_000)
        page.get_by_role("button", name="Go back to step 200").click()
        asking = page.get_by_role("dialog", name="Go back to step 200")
        expect(asking.get_by_role("button", name="Keep everything")).to_be_focused(timeout=30_000)
        for words in ("1 checkpoint after it", "step-000000300", "(epoch 3)", "report is set aside"):
            expect(asking).to_contain_text(words)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        expect(asking.get_by_label("Token")).to_be_hidden()  # this tab has one
        do = asking.get_by_role("button", name="Delete 1 checkpoint and go back to step 200")
        do.click()
        expect(asking.get_by_role("alert")).to_contain_text("not the token", timeout=30_000)
        assert steps(run) == [100, 200, 300]
        asking.get_by_label("Token").fill(TOKEN)
        do.click()
        done = page.get_by_role("dialog")
        expect(done).to_contain_text("now ends at step 200, epoch 2", timeout=30_000)
        page.keyboard.press("Enter")
        expect(done).to_be_hidden()
        page.get_by_role("button", name="Read again").first.click()
        expect(page.get_by_role("button", name="Go back to step 200")).to_have_count(0, timeout=30_000)
        assert page.evaluate("document.cookie") == ""
        browser.close()
    assert problems == []
    assert steps(run) == [100, 200]
    assert [one.entry.kind for one in Audited.at(run).entries()][-1] == "withdrawn"
    assert not (run / "report.json").exists()
