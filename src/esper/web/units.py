"""Every unit of a network as a cell of a picture, with the same as a table for whoever does not see it."""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from esper.report import figures
from esper.runs import checkpoint_at
from esper.web.html import scrolled, table

if TYPE_CHECKING:
    from esper.runs.network import GroupCells, UnitMap


def units(run: Path) -> str:
    """The units of the newest good checkpoint, by how much they matter.

    Raises:
        EsperError: there is none, or it is none of a session.
    """
    from esper.runs.network import unit_map

    return drawn(unit_map(*checkpoint_at(run)))


def drawn(found: UnitMap) -> str:
    """The picture, what its marks mean, and the table."""
    binned = cut = ""
    if found.per_cell > 1:
        each = figures.things(found.per_cell, "neighboring unit")
        binned = f" Each cell stands for up to {each} of one group; it is masked if most of them are."
    if found.cut:
        cut = f" Cut out before, and no cells any more: {figures.things(found.cut, 'unit')}."
    lead = (
        f"<p>{figures.things(found.units, 'unit')} as the checkpoint of epoch {found.epoch} ranks them: the "
        "stronger the color, the more a unit matters. Crossed out: masked. A frame with a dot: not measured. "
        f"A dark corner: grown.{binned}{cut} Arrows move from cell to cell, Page Up and Down from group to "
        "group.</p>"
    )
    cells = b"".join(_codes(group) for group in found.groups)
    groups = [
        {
            "name": one.name,
            "kind": one.kind,
            "width": one.width,
            "cells": one.rank.size,
            "grown": one.is_grown,
        }
        for one in found.groups
    ]
    packed, named = base64.b64encode(cells).decode(), escape(json.dumps(groups))
    canvas = (
        '<canvas tabindex="0" role="application" aria-label="Units by importance; the table below says it by '
        f'group" data-each="{found.per_cell}" data-cells="{packed}" data-groups="{named}"></canvas>'
    )
    said = '<p class="unit-said" role="status">Point at a cell, or move to it by the arrow keys.</p>'
    columns = ("Group", "Kind", "Units>", "Masked>", "Grown", "Median importance>", "Least>")
    rows = [_row(group, found.per_cell) for group in found.groups]
    numbers = scrolled("Groups", table(columns, rows), "tall scroll")
    return f'{lead}{said}<div class="units">{canvas}</div>{numbers}'


def _codes(group: GroupCells) -> bytes:
    """One byte for each cell: 0 not measured, else 1 to 101 by rank, and 128 more where it is masked."""
    rank = np.where(np.isfinite(group.rank), 1 + np.round(np.nan_to_num(group.rank) * 100), 0)
    return bytes(rank.clip(0, 101).astype(np.uint8) + np.where(group.masked > 0.5, 128, 0).astype(np.uint8))


def _row(group: GroupCells, per_cell: int) -> tuple[str, ...]:
    known = group.rank[np.isfinite(group.rank)]
    sizes = np.minimum(per_cell, group.width - per_cell * np.arange(group.rank.size))
    return (
        f'<span class="name">{escape(group.name)}</span>',
        escape(group.kind),
        str(group.width),
        str(round(float((group.masked * sizes).sum()))),
        "yes" if group.is_grown else "",
        figures.plain(float(np.median(known)) if known.size else None),
        figures.plain(float(known.min()) if known.size else None),
    )
