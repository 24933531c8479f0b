"""`esper analyze --elements`: which single weights of every tensor matter least and most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from esper.cli.render import table
from esper.report import figures

if TYPE_CHECKING:
    from esper.importance.elements import TensorElements

_SHOWN = 2


def element_rows(elements: Sequence[TensorElements]) -> list[dict[str, Any]]:
    """One row per tensor, with the bound of the error of its scores."""
    return [
        {
            "tensor": one.tensor,
            "elements": one.size,
            "measured": one.measured,
            "median": one.median if math.isfinite(one.median) else None,
            "below": {
                f"{threshold:g}": share if math.isfinite(share) else None
                for threshold, share in one.below.items()
            },
            "least": [{"index": list(index), "score": score} for index, score in one.least],
            "most": [{"index": list(index), "score": score} for index, score in one.most],
            "error": {
                "relative": one.error.relative,
                "absolute": one.error.absolute,
                "confidence": one.error.confidence,
            },
        }
        for one in elements
    ]


def element_table(rows: Sequence[Mapping[str, Any]] | None) -> list[RenderableType]:
    """The tensors and their elements, and what the scores are."""
    if rows is None:
        return []
    thresholds = list(rows[0]["below"]) if rows else []
    heads = (f"below {threshold}>" for threshold in thresholds)
    shown = table("tensor", "elements>", "measured>", *heads, "least", "most", "error")
    for row in rows:
        shares = (row["below"][threshold] for threshold in thresholds)
        shown.add_row(
            row["tensor"],
            str(row["elements"]),
            str(row["measured"]),
            *(figures.NOT_MEASURED if share is None else figures.percent(share) for share in shares),
            *(_places(row[name]) for name in ("least", "most")),
            _error(row["error"]),
        )
    text = (
        "Elements: root mean square of weight x gradient over sampled steps. Below: share of the measured "
        "elements under that part of the network's root mean square."
    )
    return [Text(text), shown]


def _places(elements: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{one['index']} {one['score']:.2g}" for one in elements[:_SHOWN])


def _error(bound: Mapping[str, float]) -> str:
    """How far a score can be off, in words of one cell."""
    if bound["absolute"]:
        return f"up to {bound['absolute']:.2g} too large ({figures.percent(bound['confidence'])})"
    return f"within {figures.percent(bound['relative'])}" if bound["relative"] else "exact"
