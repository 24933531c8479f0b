"""What went with a whole layer is counted, and units behind it are found again by their new numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from esper.anatomy import Anatomy
from esper.elesh import screen
from esper.leyline import decode
from esper.runs import Audited, checkpoint_at
from esper.runs.network import UnitMaps
from esper.runs.network.case import ANATOMY_FILE
from esper.runs.network.stored import Stored
from esper.runs.network.unit_fates import fates_of
from esper.runs.network.unit_map import drawn_from
from tests.session.test_layers import Residual

LAYERS_AND_CHANNELS: dict[str, Any] = {
    "pruning": {
        "target": {"flops": 0.5},
        "schedule": {
            "start_epoch": 1, "end_epoch": 4, "levels": ["channel", "layer"], "overshoot_fraction": 0.2
        },
        "floors": {"min_layers": 1, "min_layers_fraction": 0.3},
    }
}  # fmt: skip


def test_cuts_that_took_whole_layers_are_counted_and_units_behind_them_found_again(tmp_path: Path) -> None:
    training = Residual(tmp_path, **LAYERS_AND_CHANNELS)
    begun = training.session.parts.network.anatomy.num_units
    training.until(lambda: "cut" in training.marks())
    training.session.detach()
    maps, at, told = UnitMaps(), checkpoint_at(tmp_path), tuple(Audited.at(tmp_path).entries())
    cut = maps.at(*at, told)
    assert cut.units == sum(one.width for one in cut.layers)
    assert begun - cut.units == cut.cut == sum(one.cut or 0 for one in cut.layers)
    gone = {one.name for one in cut.layers if not one.width}
    inside = {name for name in gone if f"layer:{name.replace('up', 'down')}" in gone}
    assert inside
    assert all(one.cut == sum(one.gone.values()) for one in cut.layers if one.name not in inside)
    behind = [one for one in cut.layers if one.name > min(inside) and one.width]
    assert any(one.fates for one in behind if one.kind == "channel")
    assert all(one.said for one in behind if one.kind == "layer")
    assert maps.at(*at, told) is cut
    # As records were at first: without what went with the layers around it.
    stored = Stored.of(*at)
    changes = [
        {name: value for name, value in one.items() if name != "inside"}
        for one in stored.parts["structure"]["changes"]
    ]
    older = replace(stored, parts={**stored.parts, "structure": {"changes": changes}})
    anatomy = decode(Anatomy, json.loads(at[1].file(ANATOMY_FILE).read_bytes()))
    ranked = screen(stored.case, stored.tracked.weights, 1)
    unknown = drawn_from(older, anatomy, ranked, fates_of(older, anatomy, told))
    assert unknown.cut is None
    assert all(one.cut is None and not one.fates for one in unknown.layers)
