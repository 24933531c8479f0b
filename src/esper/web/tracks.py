"""Seeds on their tracks: the stages that each has passed, where it stands, and where it ended."""

from __future__ import annotations

from html import escape
from itertools import groupby

from esper.report import RunReport, SeedRow, figures
from esper.web.html import section

_STAGES = ("GERMINATED", "TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED")
_MOST_SEEDS = 40


def tracks(report: RunReport) -> str:
    """One line for each seed, the newest first; '' where nothing grew."""
    seeds = _seeds(report.seeds)
    if not seeds:
        return ""
    lines = "".join(_track(rows, report.unit) for rows in reversed(seeds[-_MOST_SEEDS:]))
    hidden = len(seeds) - _MOST_SEEDS
    more = f" {figures.things(hidden, 'earlier seed')} not shown." if hidden > 0 else ""
    return section("Seeds on their tracks", f'<div class="tracks">{lines}</div>', f"The newest first.{more}")


def _seeds(rows: tuple[SeedRow, ...]) -> list[list[SeedRow]]:
    """The rows of every seed: at one place a seed begins where one germinates."""
    seeds: list[list[SeedRow]] = []
    for _, of_place in groupby(sorted(rows, key=lambda row: row.slot), key=lambda row: row.slot):
        for row in of_place:
            if row.after == "GERMINATED" or not seeds or seeds[-1][0].slot != row.slot:
                seeds.append([])
            seeds[-1].append(row)
    return sorted(seeds, key=lambda seed: seed[0].epoch)


def _track(rows: list[SeedRow], unit: str) -> str:
    reached = {row.after: row.epoch for row in reversed(rows)}
    now = rows[-1].after
    if now == "TERMINATED" and "FOSSILIZED" in reached:  # the run has ended; the seed stays
        now = "FOSSILIZED"
    is_gone = now not in _STAGES
    steps = []
    for stage in _STAGES:
        state = "here" if stage == now else "done" if stage in reached else "ahead"
        at = f"{unit} {reached[stage]}" if stage in reached else ""
        mark = ' aria-current="step"' if stage == now else ""
        steps.append(f'<li class="{state}"{mark}><b>{stage.lower()}</b><span>{at}</span></li>')
    if is_gone:
        at = f"{unit} {rows[-1].epoch}"
        steps.append(
            f'<li class="gone" aria-current="step"><b>{escape(now.lower())}</b><span>{at}</span></li>'
        )
    name = f'<span class="name">{escape(rows[0].slot)}</span> ({escape(rows[0].blueprint)})'
    return f'<div class="seed"><h3>{name}</h3><ol class="track-of-seed">{"".join(steps)}</ol></div>'
