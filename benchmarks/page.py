"""How long people wait for the page of a long run, in a real browser, and for what has just happened.

    python benchmarks/page.py [--epochs 10000] [--units 100000] [--runs 1000] [--repeats 5]

A network of so many units is trained for three epochs, so that its run has real checkpoints, masks and
decisions, and so many epochs are told of it. `esper serve` runs in a process of its own, on this run and on a
folder of many runs. A headless Chromium opens each page, cold (the server has just begun to read) and warm.
Printed, with targets: the time from asking to the chart or the list being there, the bytes sent, the memory
of scripts and canvases; the time from coming near the map of the network until it is drawn, with the units
that it tells of; and the time from a line being appended to `telemetry.jsonl` until the page says so. The
load of the machine is printed beside.
There is no peer in it: TensorBoard would have to be installed with all that it pulls in.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright
from torch import nn

import esper

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.web.served import FakeRun, epoch

CHART, LIST, MAP = "#part-quality svg", "#runs-table tbody tr", ".units canvas"
BLOCKS, NARROW = 50, 16
FIRST_SECONDS, FIRST_BYTES, LIVE_SECONDS = 1.0, 50e6, 1.0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--epochs", type=int, default=10_000)
    asked.add_argument("--units", type=int, default=100_000)
    asked.add_argument("--runs", type=int, default=1_000)
    asked.add_argument("--repeats", type=int, default=5)
    args = asked.parse_args()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        one, many = Path(place) / "one", Path(place) / "many"
        _train(one / "long", args.units // BLOCKS)
        run = FakeRun(one / "long", pid=os.getpid(), planned=2 * args.epochs)
        run.tell(*(epoch(number, 0.5 + number / 3 / args.epochs) for number in range(1, args.epochs + 1)))
        for number in range(args.runs):
            FakeRun(many / f"run-{number:04}").tell(*(epoch(n, 0.5) for n in range(1, 21)))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {args.repeats} repeats\n")
        print("| page | first view, cold | warm | sent | memory | target |\n|---|---|---|---|---|---|")
        name = f"run of {args.epochs:,} epochs, {args.units:,} units"
        maps = _views(browser, one, "/run?run=long", CHART, name, args.repeats, with_map=True)
        _views(browser, many, "/", LIST, f"folder of {args.runs:,} runs", args.repeats)
        print(f"\nmap, from coming near it until it is drawn: {maps}")
        waits = _live(browser, one, run, args.epochs, args.repeats)
        print(
            f"\nlive update: median {median(waits):.2f} s, longest {max(waits):.2f} s "
            f"(target {LIVE_SECONDS} s: {'met' if max(waits) < LIVE_SECONDS else 'missed'})"
        )
        browser.close()


class _Block(nn.Module):
    """So many units between two narrow layers, beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(NARROW, width), nn.Linear(width, NARROW)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        read: torch.Tensor = self.down(torch.relu(self.up(values)))
        return values + read


def _train(place: Path, width: int) -> None:
    """Three epochs of a network of 50 blocks, 30 % of which are masked after the second."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, NARROW), *(_Block(width) for _ in range(BLOCKS)), nn.Linear(NARROW, 4))
    optimizer, loss = torch.optim.AdamW(model.parameters(), 1e-3), nn.CrossEntropyLoss()
    inputs = torch.randn(256, 8)
    targets = inputs[:, :4].abs().argmax(1)
    pruning = {"target": {"flops": 0.3}, "schedule": {"start_epoch": 1, "end_epoch": 3}}
    analysis = {"workers": 0, "min_optimizer_steps": 1, "max_wait_seconds": 60.0}
    session = esper.attach(
        model,
        optimizer,
        loss=loss,
        sample=(inputs[:16], targets[:16]),
        probe=[(inputs, targets)],
        run_dir=place,
        epochs=4,
        config=esper.Config.model_validate({"pruning": pruning, "analysis": analysis}),
    )
    for number in range(3):
        for part in torch.arange(256).split(32):
            optimizer.zero_grad()
            loss(model(inputs[part]), targets[part]).backward()
            optimizer.step()
        session.end_epoch(accuracy=0.5 + number / 10)
    session.detach()


def _views(
    browser: Browser,
    folder: Path,
    address: str,
    sign: str,
    name: str,
    repeats: int,
    *,
    with_map: bool = False,
) -> str:
    """Prints one row, and says how long the map took if it was asked for."""
    first: list[list[float]] = [[], []]
    drawn: list[list[float]] = [[], []]
    sent: list[float] = []
    memory: list[float] = []
    for _ in range(repeats):
        with _served(folder) as base:
            for seconds, until_drawn in zip(first, drawn, strict=True):
                page = browser.new_page()
                devtools = page.context.new_cdp_session(page)
                devtools.send("Network.enable")
                devtools.send("Performance.enable")
                total: list[float] = [0]
                devtools.on(
                    "Network.loadingFinished", lambda told, n=total: n.append(told["encodedDataLength"])
                )
                seconds.append(_until(page, base + address, sign))
                page.wait_for_timeout(300)
                if with_map:
                    until_drawn.append(_until_map(page))
                sent.append(sum(total))
                memory.append(_memory(page, devtools))
                page.close()
    met = median(first[0]) < FIRST_SECONDS and max(sent) < FIRST_BYTES and max(memory) < FIRST_BYTES
    print(
        f"| {name} | {_spread(first[0])} | {_spread(first[1])} | {max(sent) / 1e6:.2f} MB | "
        f"{max(memory) / 1e6:.1f} MB | {FIRST_SECONDS:g} s, {FIRST_BYTES / 1e6:.0f} MB: "
        f"{'met' if met else 'missed'} |"
    )
    return f"cold {_spread(drawn[0])}, warm {_spread(drawn[1])}" if with_map else ""


def _memory(page: Page, devtools: CDPSession) -> float:
    """Bytes of scripts and of the pixels of canvases."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    heap = float(next(metric["value"] for metric in metrics if metric["name"] == "JSHeapUsedSize"))
    pixels = "[...document.querySelectorAll('canvas')].reduce((n, one) => n + one.width * one.height, 0)"
    return heap + 4 * float(page.evaluate(pixels))


def _until_map(page: Page) -> float:
    begun = time.perf_counter()
    page.evaluate("document.querySelector('footer').scrollIntoView()")
    page.wait_for_selector(MAP, timeout=120_000)
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return time.perf_counter() - begun


def _until(page: Page, address: str, sign: str) -> float:
    begun = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector(sign, timeout=60_000)
    # The next frame but one: what the selector found has been painted by then.
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return time.perf_counter() - begun


def _live(browser: Browser, folder: Path, run: FakeRun, last: int, repeats: int) -> list[float]:
    waits = []
    with _served(folder) as base:
        page = browser.new_page()
        page.goto(f"{base}/run?run=long")
        page.locator("#live", has_text="Live").wait_for(timeout=60_000)
        for number in range(last + 1, last + 4 * repeats + 1):
            run.tell(epoch(number, 0.9))
            begun = time.perf_counter()
            page.locator("#part-now", has_text=f"Training epoch {number + 1}").wait_for(timeout=60_000)
            waits.append(time.perf_counter() - begun)
        page.close()
    return waits


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "esper", "serve", str(folder), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while not text.rstrip().endswith("}"):
            text += process.stdout.readline()
        yield json.loads(text)["address"].rstrip("/")
    finally:
        process.terminate()
        process.wait(30)


def _spread(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
