"""Which architectures can be cut by half, and is every cut right? A sweep beside Torch-Pruning.

Usage: python benchmarks/coverage.py [--part zoo transformers unseen timm] [--only NAME ...] [--peer]
                                     [--file FILE] [--stop-after SECONDS] [--page FILE]

Every architecture is cut in a process of its own, under a limit of time and memory. Asked is half of the
FLOPs: the same fraction of every group, by magnitude, as much as it takes, at most three quarters of a group.

  pass     at least half of what was asked went; the cut network equals the masked one on inputs that the
           proof never saw (<= 1e-12 in float64, <= 1e-5 in float32), and one AdamW step after the cut equals
           one step of the masked network in every parameter. What the network's own code refuses in place
           may pass as a program: its outputs are compared, and it is not trained on
  refused  Esper said no, or less than that can go; the reason is named and the network is as it was
  timeout  not done within the limit of time, which says nothing about the cut
  WRONG    anything else

FLOPs are counted by torch's own counter on the real networks, not by Esper. A sweep can be made in pieces:
what `--file` holds already is not measured again, and `--page` writes all that it holds as a page.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
import traceback
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from architectures import PARTS, Architecture
from architectures.row import Row, page, read, summaries, write

ALL: dict[str, Architecture] = {name: found for part in PARTS.values() for name, found in part.items()}
COLUMNS = (
    f"{'architecture':26}{'family':22}{'result':9}{'FLOPs gone':>11}{'MFLOPs':>18}{'seconds':>9}{'MiB':>6}"
)


def main() -> int:
    options = _options()
    names = options.only or [name for part in options.part for name in PARTS[part]]
    unknown = [name for name in names if name not in ALL]
    if unknown:
        print(f"No such architecture: {', '.join(unknown)}. Known are: {', '.join(ALL)}.", file=sys.stderr)
        return 2
    rows = read(Path(options.file)) if options.file else []
    known = {(row.name, row.tool) for row in rows if row.name not in options.only}
    rows = [row for row in rows if (row.name, row.tool) in known]
    tools = ["esper", *(["torch-pruning"] if options.peer else [])]
    asked = [(name, tool) for name in names for tool in tools if (name, tool) not in known]
    end = time.monotonic() + options.stop_after
    print(COLUMNS)
    for name, tool in asked:
        if time.monotonic() < end:
            rows.append(run(name, tool, options.seconds, options.gigabytes))
            print(_line(rows[-1]), flush=True)
            if options.file:
                write(Path(options.file), rows)
    places = {name: number for number, name in enumerate(ALL)}
    rows.sort(key=lambda row: (places.get(row.name, len(places)), row.tool))
    print(*summaries(rows), sep="\n")
    if options.page:
        Path(options.page).write_text(page(rows))
    return int(any(row.tool == "esper" and row.result == "WRONG" for row in rows))


def _options() -> Any:
    parser = argparse.ArgumentParser(description="which architectures can be cut by half, and rightly")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="which of them")
    parser.add_argument("--only", nargs="+", default=[], help="names of architectures, measured anew")
    parser.add_argument("--peer", action="store_true", help="also Torch-Pruning on the same networks")
    parser.add_argument("--file", help="keep every figure in this file (JSON) and go on from what it holds")
    parser.add_argument("--page", help="write all figures as a page (Markdown) to this file")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="then begin no more")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit for one architecture")
    parser.add_argument("--gigabytes", type=float, default=12.0, help="limit of address space for one")
    return parser.parse_args()


def _row(name: str, tool: str) -> Row:
    part = next(part for part, names in PARTS.items() if name in names)
    return Row(name, part, ALL[name].family, tool)


def run(name: str, tool: str, seconds: float, gigabytes: float) -> Row:
    """One architecture and one tool in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["architectures.warm"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(name, tool, int(gigabytes * 2**30), theirs))
    process.start()
    theirs.close()
    row = _row(name, tool)
    try:
        if ours.poll(seconds):
            row = Row(**ours.recv())
        else:
            row.result, row.reason, row.seconds = "timeout", f"took longer than {seconds:.0f} s", seconds
    except EOFError:
        row.result, row.reason = "WRONG", "the process died"
    process.kill()
    process.join()
    return row


def _child(name: str, tool: str, limit: int, answer: Connection) -> None:
    from architectures.measure import by_esper
    from architectures.peer import by_torch_pruning

    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    row = _row(name, tool)
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
    form = "as a program; " if row.form == "program" else ""
    return (
        f"{tool:26}{row.family:22}{row.result:9}{row.share:11.1%}{flops:>18}{row.seconds:9.1f}"
        f"{row.peak_bytes / 2**20:6.0f}  {form}{row.reason}"
    ).rstrip()


if __name__ == "__main__":
    sys.exit(main())
