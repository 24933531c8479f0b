"""What became of seeds is told by how many, and where."""

from __future__ import annotations

from esper.report import SeedRow, fates


def row(slot: str, before: str, after: str) -> SeedRow:
    return SeedRow(1, slot, "mlp", before, after, "Because.")


def test_every_seed_that_was_asked_for_is_told_of() -> None:
    assert fates([], ()) == ""
    rows = [
        *(row(slot, "DORMANT", "GERMINATED") for slot in ("a", "b", "b", "c")),
        *(row("b", "TRAINING", "CULLED"), row("b", "CULLED", "EMBARGOED"), row("b", "BLENDING", "CULLED")),
        *(row(slot, "DORMANT", "DORMANT") for slot in ("d", "e", "f", "g", "d", "h")),
        row("a", "PROBATIONARY", "PROBATIONARY"),
        *(row(slot, "PROBATIONARY", "FOSSILIZED") for slot in ("a", "c")),
    ]
    told = fates(rows, ("a",))
    assert told == (
        "Seeds: 1 stayed (a), 2 culled (b 2 times), 1 taken out again (c), "
        "6 refused (d 2 times, e, f and 2 more)"
    )
