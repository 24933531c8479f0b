"""What became of one architecture with one tool, and the page that tells of all of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

_NO_FIGURE = "-"
_HEAD = """# Which architectures can be cut by half; 2 shared cores (virtual machine), torch {version}

`python benchmarks/coverage.py --peer`: small random networks, half of the FLOPs asked for, every cut checked
without Esper's help on inputs that its proof never saw. Other work ran on both cores, so seconds are an upper
bound. Torch-Pruning is told what its documentation asks for (heads, the layer to ignore); its networks only
have to run forward and backward, nothing is compared.
"""


_FOLDERS = re.compile(r"/[^\s()]*?/(?=benchmarks/)|/[^\s()]*/site-packages/")
"""Where a machine keeps its packages, and this project: nobody else wants to know."""


@dataclass
class Row:
    """One architecture, one tool; errors are relative to the largest value compared."""

    name: str
    part: str
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
    form: str = "in place"

    @property
    def share(self) -> float:
        """The share of the FLOPs that went."""
        return 1.0 - self.flops_after / self.flops_before if self.flops_before else 0.0


def read(path: Path) -> list[Row]:
    """Rows of a file; none if there is no file yet."""
    return [Row(**row) for row in json.loads(path.read_text())] if path.exists() else []


def write(path: Path, rows: Iterable[Row]) -> None:
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def summaries(rows: Sequence[Row]) -> list[str]:
    """One line for every tool and part."""
    lines = []
    for tool, part in dict.fromkeys((row.tool, row.part) for row in rows):
        chosen = [row for row in rows if (row.tool, row.part) == (tool, part)]
        count = Counter(row.result for row in chosen)
        shares = sorted(row.share for row in chosen if row.result == "pass")
        middle = (
            f"; of those that pass, {shares[len(shares) // 2]:.0%} of the FLOPs went (median)"
            if shares
            else ""
        )
        programs = sum(row.result == "pass" and row.form == "program" for row in chosen)
        told = f" ({programs} of them as a program only)" if programs else ""
        late = f", {count['timeout']} timeout" if count["timeout"] else ""
        lines.append(
            f"{tool}, {part}: {count['pass']} of {len(chosen)} pass{told}, {count['refused']} refused, "
            f"{count['WRONG']} WRONG{late}{middle}"
        )
    return lines


def page(rows: Sequence[Row]) -> str:
    """All rows as tables in Markdown, the peer beside."""
    ours = [row for row in rows if row.tool == "esper"]
    theirs = {row.name: row for row in rows if row.tool != "esper"}
    lines = [_HEAD.format(version=metadata.version("torch")), *(f"* {line}" for line in summaries(rows))]
    passed = [row for row in ours if row.result == "pass"]
    worst = (
        max((getattr(row, name) or 0.0 for row in passed), default=0.0)
        for name in ("float64_error", "float32_error", "step_error")
    )
    lines.append(
        "* Largest error of all that pass: outputs {:.1e} in float64 and {:.1e} in float32, parameters after "
        "one step {:.1e}.".format(*worst)
    )
    for part in dict.fromkeys(row.part for row in ours):
        lines += ["", f"## {part}", "", *_table([row for row in ours if row.part == part], theirs)]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row], theirs: Mapping[str, Row]) -> list[str]:
    head = "architecture, result, FLOPs gone, s, MiB, float64, float32, one step, Torch-Pruning, s, "
    lines = [f"| {head.replace(', ', ' | ')} |", "|---" * 11 + "|"]
    for row in rows:
        peer = theirs.get(row.name)
        cells = [
            row.name,
            f"{row.result}, as a program" if row.form == "program" else row.result,
            f"{row.share:.0%}",
            f"{row.seconds:.1f}",
            f"{row.peak_bytes / 2**20:.0f}",
            *(_error(e) for e in (row.float64_error, row.float32_error, row.step_error)),
            *((_of_peer(peer), f"{peer.seconds:.1f}") if peer else (_NO_FIGURE, _NO_FIGURE)),
            _FOLDERS.sub("", row.reason).replace("|", "/").replace("\n", " ")[:160],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _of_peer(row: Row) -> str:
    if row.result == "pass":
        return f"{row.share:.0%}"
    return f"{row.result}: {row.reason.split(':')[0][:30]}"


def _error(error: float | None) -> str:
    return _NO_FIGURE if error is None else f"{error:.0e}"
