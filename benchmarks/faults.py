"""Injects failures of docs/failure-modes.md into training runs and counts what it costs.

Usage: python benchmarks/faults.py [--json]

The injections are those of `tests/faults/test_failure_table.py`: worker processes without memory, real
files whose bits are flipped, a process that is killed. Each run is held, bit for bit, to
the same run where nothing is pruned, or where nothing is disturbed. Lost are optimizer steps that were made
and are not part of the network at the end; a mask is wrong if the network is not the one that it should be.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

ROOT = Path(__file__).parents[1]


def injected(report: Path) -> list[dict[str, object]]:
    """Runs the table and reads what every row recorded."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    command += ["-o", "junit_family=xunit1"]  # the only one that holds what a test recorded
    done = subprocess.run([*command, "tests/faults/test_failure_table.py"], cwd=ROOT, check=False)
    rows = []
    for case in ET.parse(report).iter("testcase"):
        told = {found.get("name", ""): found.get("value", "") for found in case.iter("property")}
        rows.append(
            {
                "failure": case.get("name", "").removeprefix("test_").replace("_", " "),
                "steps": int(told.get("steps", 0)),
                "lost": int(told.get("lost", 0)),
                "wrong_masks": int(told.get("wrong", 0)),
                "passed": case.find("failure") is None and case.find("error") is None,
            }
        )
    if not rows:
        raise SystemExit(f"No failure was injected; pytest ended with {done.returncode}.")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Injects failures and counts what they cost.")
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as directory:
        rows = injected(Path(directory) / "report.xml")
    total = {name: sum(int(str(row[name])) for row in rows) for name in ("steps", "lost", "wrong_masks")}
    if as_json:
        print(json.dumps({"rows": rows, **total}, indent=2))
    else:
        print("| injected | steps | lost | wrong masks |\n|---|---|---|---|")
        for row in rows:
            print(f"| {row['failure']} | {row['steps']} | {row['lost']} | {row['wrong_masks']} |")
        print(f"| **{len(rows)} injections** | {total['steps']} | {total['lost']} | {total['wrong_masks']} |")
    raise SystemExit(0 if all(row["passed"] for row in rows) else 1)


if __name__ == "__main__":
    main()
