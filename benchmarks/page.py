"""How long people wait for the page of a long run, in a real browser, and for what has just happened.

    python benchmarks/page.py [--epochs 10000] [--runs 1000] [--repeats 5]

`esper serve` runs in a process of its own, on a run being written and on a folder of many runs. A headless
Chromium opens each page, cold (the server has just begun to read) and warm. Printed, with targets: the time
from asking to the chart or the list being there, the bytes sent, the memory of scripts, and the time from a
line being appended to `telemetry.jsonl` until the page says so. The load of the machine is printed beside.
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

from playwright.sync_api import Browser, Page, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.web.served import FakeRun, epoch

CHART, LIST = "#part-quality svg", "#runs-table tbody tr"
FIRST_SECONDS, FIRST_BYTES, LIVE_SECONDS = 1.0, 50e6, 1.0


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--epochs", type=int, default=10_000)
    asked.add_argument("--runs", type=int, default=1_000)
    asked.add_argument("--repeats", type=int, default=5)
    args = asked.parse_args()
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        one, many = Path(place) / "one", Path(place) / "many"
        run = FakeRun(one / "long", pid=os.getpid())
        run.tell(*(epoch(number, 0.5 + number / 3 / args.epochs) for number in range(1, args.epochs + 1)))
        for number in range(args.runs):
            FakeRun(many / f"run-{number:04}").tell(*(epoch(n, 0.5) for n in range(1, 21)))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {args.repeats} repeats\n")
        print("| page | first view, cold | warm | sent | memory | target |\n|---|---|---|---|---|---|")
        _views(browser, one, "/run?run=long", CHART, f"run of {args.epochs:,} epochs", args.repeats)
        _views(browser, many, "/", LIST, f"folder of {args.runs:,} runs", args.repeats)
        waits = _live(browser, one, run, args.epochs, args.repeats)
        print(
            f"\nlive update: median {median(waits):.2f} s, longest {max(waits):.2f} s "
            f"(target {LIVE_SECONDS} s: {'met' if max(waits) < LIVE_SECONDS else 'missed'})"
        )
        browser.close()


def _views(browser: Browser, folder: Path, address: str, sign: str, name: str, repeats: int) -> None:
    cold: list[float] = []
    warm: list[float] = []
    sent: list[float] = []
    memory: list[float] = []
    for _ in range(repeats):
        with _served(folder) as base:
            for seconds in (cold, warm):
                page = browser.new_page()
                devtools = page.context.new_cdp_session(page)
                devtools.send("Network.enable")
                devtools.send("Performance.enable")
                total = [0]
                devtools.on(
                    "Network.loadingFinished", lambda told, n=total: n.append(told["encodedDataLength"])
                )
                seconds.append(_until(page, base + address, sign))
                page.wait_for_timeout(300)
                sent.append(sum(total))
                metrics = devtools.send("Performance.getMetrics")["metrics"]
                memory.append(next(m["value"] for m in metrics if m["name"] == "JSHeapUsedSize"))
                page.close()
    met = median(cold) < FIRST_SECONDS and max(sent) < FIRST_BYTES and max(memory) < FIRST_BYTES
    print(
        f"| {name} | {_spread(cold)} | {_spread(warm)} | {max(sent) / 1e6:.2f} MB | "
        f"{max(memory) / 1e6:.1f} MB | {FIRST_SECONDS:g} s, {FIRST_BYTES / 1e6:.0f} MB: "
        f"{'met' if met else 'missed'} |"
    )


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
