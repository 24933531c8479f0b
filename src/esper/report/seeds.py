"""The seeds of a run in its report: the way of each, with the evidence of its gates."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from esper.report import figures
from esper.report.blocks import block
from esper.report.report import RunReport, SeedRow

_COLUMNS = (("Seed", ""), ("Stage", ""), ("Evidence", ""))
_LEAD = "Small modules that were grafted onto the network, with what their gates were told at every stage."


def seeds_and_evidence(report: RunReport) -> str:
    """The way of every seed, place by place, with what its gates were told; '' where there was none."""
    seeds = report.seeds
    if not seeds:
        return ""
    columns = ((report.unit.capitalize(), "number"), *_COLUMNS)
    head = "".join(f'<th class="{style}">{name}</th>' for name, style in columns)
    places = dict.fromkeys(row.slot for row in seeds)
    blocks = []
    for place in places:
        rows = [row for row in seeds if row.slot == place]
        body = "".join(f"<tr>{_seed(row)}</tr>" for row in rows)
        table = f'<div class="tall"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        blocks.append(f"<h3>{escape(place)}: {escape(_fate(rows))}</h3>{table}")
    return block(
        "Seeds and their evidence",
        "".join(blocks),
        f"{_LEAD}{_compiled(report)}",
    )


def _compiled(report: RunReport) -> str:
    """What a compiler had to do meanwhile, if somebody has counted."""
    if report.programs is None:
        return ""
    made = figures.things(report.programs, "program") if report.programs else "nothing"
    return f" While one was on its way, torch.compile made {made}."


def _fate(rows: Sequence[SeedRow]) -> str:
    """How many seeds a place has had, and what became of the last one."""
    refused = ("DORMANT", "DORMANT")
    stages = [row.after for row in rows if (row.before, row.after) != refused]
    begun = [number for number, stage in enumerate(stages) if stage == "GERMINATED"]
    if not begun:
        return "none germinated"
    is_kept = "FOSSILIZED" in stages[begun[-1] :]
    end = "a part of the network" if is_kept else stages[-1].lower()
    return f"{figures.things(len(begun), 'seed')}, the last one {end}"


def _seed(row: SeedRow) -> str:
    stays = row.before == row.after
    step = escape(f"stays {row.before}" if stays else f"{row.before} → {row.after}").lower()
    return (
        f'<td class="number">{row.epoch}</td><td class="name">{escape(row.blueprint)}</td>'
        f'<td>{step}</td><td class="reason">{escape(row.evidence)}</td>'
    )
