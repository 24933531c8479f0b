"""Every unit of a network as a cell of a picture, with the same as a table for whoever does not see it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from esper.arrays import FloatArray
from esper.report import figures
from esper.runs import Audited, checkpoint_at
from esper.web.html import AGAIN, fold_in, scrolled, table

if TYPE_CHECKING:
    from esper.runs.network import LayerCells, UnitMap, UnitMaps

_KEPT, _MASKED = 0, 1
_MOST_NAMED, _MOST_SAID = 4, 2
_LEGEND = (
    ("scale", "matters least to most"),
    ("frame", "not measured"),
    ("cross", "masked"),
    ("hollow", "cut out"),
    ("corner", "grown"),
)


class Units:
    """The maps of one server. Any thread may ask."""

    def __init__(self) -> None:
        self._maps: UnitMaps | None = None
        self._making = threading.Lock()

    def shown(self, run: Path) -> str:
        """The units of the newest good checkpoint, by how much they matter.

        Raises:
            EsperError: there is none, or it is none of a session.
        """
        import torch

        from esper.runs.network import UnitMaps

        torch.set_num_threads(1)  # whoever looks on leaves the other cores to training
        with self._making:  # two would rank the same checkpoint twice, at once
            self._maps = maps = self._maps or UnitMaps()
        audited = Audited.at(run)
        doubts = [one["text"] for one in audited.problems()]
        return drawn(maps.at(*checkpoint_at(run), audited.entries()), doubts)


def drawn(found: UnitMap, doubts: Sequence[str] = ()) -> str:
    """The picture, what its marks mean, and the tables.

    Args:
        found: what is drawn.
        doubts: what is wrong with the audit, which tells of decisions.
    """
    counts = f"{figures.things(found.units, 'unit')} as the checkpoint of epoch {found.epoch} ranks them"
    cut = f"; {figures.things(found.cut, 'unit')} were cut out before" if found.cut else ""
    if found.cut is None:
        cut = "; how many were cut out before is not known"
    elif any(one.cut is None for one in found.layers):
        cut += ", of which layers is not known"
    most = max((one.per_cell for one in found.layers), default=1)
    shared = f" Where layers are wide a cell is up to {most} units of like importance." if most > 1 else ""
    unranked = f' <span class="problem">{escape(found.why_unranked)}</span>' if found.why_unranked else ""
    lead = (
        f"<p>{counts}{cut}. A column is what layers make together, in the order of the network; a cell is a "
        f"unit, what matters most on top.{shared} Click on a cell, or move: arrows from cell to cell, Page "
        f"Up and Down from layer to layer. {AGAIN}{unranked}</p>"
    )
    lead += "".join(f'<p class="problem">{escape(doubt)}</p>' for doubt in doubts)
    marks = "".join(f'<li><i class="{mark}"></i>{words}</li>' for mark, words in _LEGEND)
    packed = json.dumps(_packed(found), separators=(",", ":")).replace("<", "\\u003c")
    picture = (
        f'<ul class="legend" aria-label="What the marks mean">{marks}</ul>'
        '<div class="units" tabindex="-1"><div class="reach"><canvas tabindex="0" role="application" '
        'aria-label="The network as a map of its units; the table below says it by layer"></canvas></div>'
        "</div>"
        '<p class="unit-said" role="status">Nothing is chosen yet.</p>'
        f'<script type="application/json" class="unit-cells">{packed}</script>'
    )
    return (
        f'<section class="map"><h2>The network as a map</h2>{lead}{picture}'
        f"{fold_in('The same by layer, as a table', _layers(found))}{_frozen(found)}</section>"
    )


def _packed(found: UnitMap) -> dict[str, Any]:
    """What the script draws and tells."""
    whys: dict[str, int] = {}
    for layer in found.layers:
        for fate in layer.fates.values():
            whys.setdefault(fate.why, len(whys))
    return {"layers": [_layer(one, whys) for one in found.layers], "whys": list(whys)}


def _layer(one: LayerCells, whys: Mapping[str, int]) -> dict[str, Any]:
    percent = np.where(np.isfinite(one.rank), np.round(np.nan_to_num(one.rank) * 100), -1)
    return {
        "name": one.name,
        "kind": one.kind,
        "grown": one.is_grown,
        "told": _told(one),
        "state": one.state.tolist(),
        "count": one.count.tolist(),
        "unit": one.unit.tolist(),
        "rank": percent.astype(np.int64).tolist(),
        "rise": _short(one.rise),
        "error": _short(one.error),
        "fates": {
            cell: [whys[fate.why], fate.epoch, _few(fate.loss_increase), _few(fate.confidence)]
            for cell, fate in one.fates.items()
        },
    }


def _few(value: float | None) -> float | None:
    """A number with as many digits as people read; None where nobody measured."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.3g}")


def _short(values: FloatArray) -> list[float | None]:
    return [_few(value) for value in values.tolist()] if np.isfinite(values).any() else []


def _told(one: LayerCells) -> str:
    """A layer in words."""
    kinds = f"{one.kind}s"
    before = f" of {one.width + one.cut}" if one.cut else ""
    parts = [
        f"{one.name}: {one.width}{before} {kinds} left" + (", all of them grown" if one.is_grown else "")
    ]
    if masked := int(one.count[one.state == _MASKED].sum()):
        parts.append(f"{masked} of them masked")
    if one.cut:
        when = ", ".join(f"{count} decided after epoch {epoch}" for epoch, count in sorted(one.gone.items()))
        parts.append(f"{one.cut} cut out" + (f" ({when})" if when else ""))
    if unmeasured := _unmeasured(one):
        parts.append(f"{unmeasured} not measured")
    if math.isfinite(one.typical[0]):
        least, middle, most = (round(100 * rank) for rank in one.typical)
        parts.append(f"importance {least} to {most} of 100, median {middle}")
    if said := _said(one):
        more = "; ..." if len(said) > _MOST_SAID else ""
        parts.append("; ".join(said[:_MOST_SAID]) + more)
    if others := [name for name in one.layers if name != one.name]:
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        parts.append(f"they go together with those of {', '.join(others[:_MOST_NAMED])}{more}")
    return "; ".join(parts) + "."


def _said(one: LayerCells) -> list[str]:
    """The last decisions about the units of a layer, the most frequent first."""
    by_number = sorted(one.said.items(), key=lambda item: -item[1])
    return [f"of {count} the decision after epoch {epoch} says: {why}" for (why, epoch), count in by_number]


def _unmeasured(one: LayerCells) -> int:
    return int(one.count[(one.state == _KEPT) & ~np.isfinite(one.rank)].sum())


def _layers(found: UnitMap) -> str:
    columns = (
        "Layer",
        "Kind",
        "Units>",
        "Cut>",
        "Masked>",
        "Not measured>",
        "Median importance>",
        "Least>",
        "What the last decisions said",
    )
    return scrolled("Layers", table(columns, [_row(one) for one in found.layers]), "tall scroll")


def _row(one: LayerCells) -> tuple[str, ...]:
    return (
        f'<span class="name">{escape(one.name)}</span>' + (" (grown)" if one.is_grown else ""),
        escape(one.kind),
        str(one.width),
        "not known" if one.cut is None else str(one.cut),
        str(int(one.count[one.state == _MASKED].sum())),
        str(_unmeasured(one)),
        figures.plain(one.typical[1]),
        figures.plain(one.typical[0]),
        escape("; ".join(_said(one))),
    )


def _frozen(found: UnitMap) -> str:
    """What is no unit, and why."""
    if not found.frozen:
        return ""
    rows = [
        (f'<span class="name">{escape(name)}</span>', str(width), escape(reason))
        for name, width, reason in found.frozen
    ]
    return fold_in(
        f"What cannot be removed, and why ({len(rows)})",
        scrolled("What cannot be removed", table(("Axis", "Width>", "Why"), rows), "tall scroll"),
    )
