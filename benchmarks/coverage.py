"""Which architectures can be cut by half, and is every cut right? A sweep beside Torch-Pruning.

Usage: python benchmarks/coverage.py [--only NAME ...] [--zoo] [--peer] [--json FILE] [--jobs 1]

Every architecture is cut in a process of its own, under a limit of time and memory. Asked is half of the
FLOPs: the same fraction of every group, by magnitude, as much as it takes, at most three quarters of a group.

  pass     at least half of what was asked went; the cut network equals the masked one on inputs that the
           proof never saw (<= 1e-12 in float64, <= 1e-5 in float32), and one AdamW step after the cut equals
           one step of the masked network in every parameter
  refused  Esper said no, or less than that can go; the reason is named and the network is as it was
  WRONG    anything else

FLOPs are counted by torch's own counter on the real networks, not by Esper.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from architectures import PATTERNS, TRANSFORMERS, Architecture

ALL: dict[str, Architecture] = {**PATTERNS, **TRANSFORMERS}
COLUMNS = (
    f"{'architecture':26}{'family':22}{'result':9}{'FLOPs gone':>11}{'MFLOPs':>18}{'seconds':>9}{'MiB':>6}"
)


@dataclass
class Row:
    """What became of one architecture with one tool."""

    name: str
    family: str
    tool: str = "esper"
    result: str = "refused"
    reason: str = ""
    flops_before: float = 0.0
    flops_after: float = 0.0
    seconds: float = 0.0
    peak_bytes: int = 0
    float64_error: float | None = None
    float32_error: float | None = None
    step_error: float | None = None
    groups: int = 0
    groups_left_whole: int = 0

    @property
    def share(self) -> float:
        return 1.0 - self.flops_after / self.flops_before if self.flops_before else 0.0


def main() -> int:
    options = _options()
    names = options.only or list(PATTERNS if options.zoo else ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"No such architecture: {', '.join(unknown)}. Known are: {', '.join(ALL)}.", file=sys.stderr)
        return 2
    tools = ["esper", *(["torch-pruning"] if options.peer else [])]
    print(COLUMNS)
    rows = []
    for name in names:
        for tool in tools:
            rows.append(run(name, tool, options.seconds, options.gigabytes))
            print(_line(rows[-1]), flush=True)
    for tool in tools:
        _summary([row for row in rows if row.tool == tool], tool)
    if options.json:
        Path(options.json).write_text(json.dumps([{**asdict(r), "share": r.share} for r in rows], indent=1))
    return int(any(row.tool == "esper" and row.result == "WRONG" for row in rows))


def _options() -> Any:
    parser = argparse.ArgumentParser(description="which architectures can be cut by half, and rightly")
    parser.add_argument("--only", nargs="+", default=[], help="names of architectures")
    parser.add_argument("--zoo", action="store_true", help="only the zoo of patterns")
    parser.add_argument("--peer", action="store_true", help="also Torch-Pruning on the same networks")
    parser.add_argument("--json", help="write every figure to this file")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit for one architecture")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="limit of address space for one")
    return parser.parse_args()


def run(name: str, tool: str, seconds: float, gigabytes: float) -> Row:
    """One architecture and one tool in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["architectures.warm"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, tool, int(gigabytes * 2**30), theirs))
    process.start()
    theirs.close()
    row = Row(name, ALL[name].family, tool)
    try:
        if ours.poll(seconds):
            row = Row(**ours.recv())
        else:
            row.result, row.reason = "WRONG", f"took longer than {seconds:.0f} s"
    except EOFError:
        row.result, row.reason = "WRONG", "the process died"
    process.kill()
    process.join()
    return row


def _child(name: str, tool: str, limit: int, answer: Connection) -> None:
    from architectures.measure import by_esper
    from architectures.peer import by_torch_pruning

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    row = Row(name, ALL[name].family, tool)
    try:
        (by_esper if tool == "esper" else by_torch_pruning)(ALL[name], row)
    except Exception as error:  # noqa: BLE001  whatever went wrong is this architecture's result
        row.result, row.reason = "WRONG", f"{type(error).__name__}: {str(error)[:200]} in {_last_line(error)}"
    answer.send(asdict(row))


def _last_line(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _line(row: Row) -> str:
    flops = f"{row.flops_before / 1e6:.2f} > {row.flops_after / 1e6:.2f}"
    tool = row.name if row.tool == "esper" else f"  {row.tool}"
    return (
        f"{tool:26}{row.family:22}{row.result:9}{row.share:11.1%}{flops:>18}{row.seconds:9.1f}"
        f"{row.peak_bytes / 2**20:6.0f}  {row.reason}"
    ).rstrip()


def _summary(rows: Sequence[Row], tool: str) -> None:
    for part, kind in (("zoo", True), ("architectures", False)):
        chosen = [row for row in rows if (row.name in PATTERNS) == kind]
        if chosen:
            count = Counter(row.result for row in chosen)
            shares = sorted(row.share for row in chosen if row.result == "pass")
            middle = f", median share of FLOPs gone {shares[len(shares) // 2]:.0%}" if shares else ""
            print(
                f"{tool}: {part}: {count['pass']} of {len(chosen)} pass, {count['refused']} refused, "
                f"{count['WRONG']} WRONG{middle}"
            )


if __name__ == "__main__":
    sys.exit(main())
