"""`esper analyze --heads`: how focused every attention head is, and which heads look at the same things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from esper.cli.render import table
from esper.report import figures

if TYPE_CHECKING:
    from esper.anatomy import Anatomy
    from esper.elesh import HeadPatterns


def head_rows(patterns: Sequence[HeadPatterns], anatomy: Anatomy, threshold: float) -> list[dict[str, Any]]:
    """One row per head; `alike` are the others of its cluster, with at least that cosine of patterns."""
    rows: list[dict[str, Any]] = []
    for pattern in patterns:
        others = {
            int(head): [int(other) for other in cluster if other != head]
            for cluster in pattern.clusters(threshold)
            for head in cluster
        }
        apart = pattern.similarity - 2 * np.eye(len(pattern.units))
        for head, unit in enumerate(pattern.units.tolist()):
            numbers = (pattern.entropy[head], pattern.diversity[head], apart[head].max())
            entropy, diversity, nearest = (float(n) if np.isfinite(n) else None for n in numbers)
            rows.append(
                {
                    "attention": pattern.node,
                    "head": head,
                    "unit": anatomy.unit_id(unit) if unit >= 0 else None,
                    "entropy": entropy,
                    "diversity": diversity,
                    "nearest_cosine": nearest if len(pattern.units) > 1 else None,
                    "alike": others.get(head, []),
                }
            )
    return rows


def head_table(found: Sequence[Mapping[str, Any]] | None, threshold: float) -> list[RenderableType]:
    """The heads of every attention, and how many look at the same things."""
    if found is None:
        return []
    if not found:
        return [Text("No attention whose heads have an axis of their own was found.")]
    rows = table("attention", "head>", "unit", "entropy>", "diversity>", "nearest cosine>", "alike")
    for one in found:
        numbers = ("" if one[n] is None else figures.plain(one[n]) for n in _NUMBERS)
        alike = ", ".join(map(str, one["alike"]))
        rows.add_row(one["attention"], str(one["head"]), one["unit"] or "none alone", *numbers, alike)
    doubled = sum(bool(one["alike"]) for one in found)
    told = (
        f"{doubled} of {figures.things(len(found), 'head')} have a pattern like another's (cosine of at least"
        f" {threshold:g} throughout). Entropy: 0 looks at one place, 1 everywhere; diversity: how far the "
        "nearest other pattern is, 0 to 1."
    )
    return [Text(told), rows]


_NUMBERS = ("entropy", "diversity", "nearest_cosine")
