"""`esper analyze`: what a checkpoint says about its units, as rows and as a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from esper.cli import output
from esper.cli.elements import element_rows, element_table
from esper.cli.heads import head_rows, head_table
from esper.cli.render import BAD, GOOD, STRONG, table
from esper.report import figures
from esper.runs import checkpoint_at

if TYPE_CHECKING:
    from esper.anatomy import Anatomy
    from esper.arrays import FloatArray
    from esper.elesh import BlockMeasures
    from esper.emrakul.cycle import CycleOutcome
    from esper.runs.network import Examination


def analyzed(
    path: Path,
    *,
    against_truth: bool,
    with_plan: bool,
    with_blocks: bool,
    with_heads: bool,
    with_elements: bool,
    hidden: bool,
) -> dict[str, Any]:
    """Examines a run's newest checkpoint, or the one that is named; see `esper.runs.network.examine`.

    Raises:
        EsperError: there is no such checkpoint, or it does not hold what is needed.
    """
    from esper.importance import AccuracyTargets
    from esper.runs.network import LOW_FRACTION, examine

    targets = AccuracyTargets()
    catalog, checkpoint = checkpoint_at(path)
    found = examine(
        catalog,
        checkpoint,
        against_truth=against_truth,
        with_plan=with_plan,
        with_blocks=with_blocks,
        with_heads=with_heads,
        with_elements=with_elements,
        watch=lambda parts, total: output.with_progress(parts, "removing units", total, hidden),
    )
    return {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "low_fraction": LOW_FRACTION,
        "groups": _rows(found, LOW_FRACTION),
        "targets": dataclasses.asdict(targets),
        "quality": {
            name: {**_plain(dataclasses.asdict(one)), "missed": list(targets.missed(one))}
            for name, one in found.quality.items()
        },
        "plan": None if found.outcome is None else _plan(found.outcome, found),
        "blocks": [_block(one, found.anatomy) for one in found.blocks] if with_blocks else None,
        "heads": None if found.heads is None else head_rows(found.heads, found.anatomy, found.alike_from),
        "heads_alike_from": found.alike_from,
        "elements": None if found.elements is None else element_rows(found.elements),
        "notes": list(found.notes),
    }


def analysis_table(facts: Mapping[str, Any]) -> RenderableType:
    """Groups with the medians of their scores, how well each score ranks, and what would go next.

    A source that has measured nothing has no column; a note tells why.
    """
    scores = [
        name
        for name in ("screen", "optimizer", "tracker", "magnitude", "ablation", "truth")
        if any(row.get(name) is not None for row in facts["groups"])
    ]
    if "optimizer" in scores and "tracker" in scores:
        scores.remove("tracker")  # it stands in where the optimizer tells nothing
    low = f"lowest {facts['low_fraction']:.0%}"
    groups = table("group", "kind", "units>", "masked>", "unmeasured>", f"{low}>", *(f"{n}>" for n in scores))
    for row in facts["groups"]:
        counts = (str(row[name]) for name in ("units", "masked", "unmeasured", "low"))
        groups.add_row(row["group"], row["kind"], *counts, *(_short(row[name]) for name in scores))
    head = f"step {facts['step']}, epoch {facts['epoch']}; scores are medians of a group, larger matters more"
    return Group(
        Text(head, style=STRONG),
        groups,
        *(Text(note) for note in facts["notes"]),
        *_quality(facts["quality"], facts["targets"], low),
        *_next(facts["plan"]),
        *_blocks(facts["blocks"]),
        *head_table(facts["heads"], facts["heads_alike_from"]),
        *element_table(facts["elements"]),
    )


def _rows(found: Examination, low_fraction: float) -> list[dict[str, Any]]:
    """One row per group: its units, how many are at the low end of the network, and the medians of scores."""
    ranks = np.where(found.keep, found.scores["screen"], np.nan)
    measured = np.isfinite(ranks)
    line = np.quantile(ranks[measured], low_fraction) if measured.any() else -np.inf
    scores = dict(found.scores) if found.truth is None else {**found.scores, "truth": found.truth}
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(found.anatomy.groups):
        span = found.anatomy.unit_slice(number)
        left, seen = found.keep[span], measured[span]
        row = {
            "group": group.name,
            "kind": group.kind.value,
            "units": int(left.sum()),
            "masked": int((~left).sum()),
            "unmeasured": int((left & ~seen).sum()),
            "low": int((ranks[span][seen] <= line).sum()),
        }
        rows.append({**row, **{name: _median(score[span][left]) for name, score in scores.items()}})
    return rows


def _plan(outcome: CycleOutcome, found: Examination) -> dict[str, Any]:
    plan = outcome.plan
    gone = [] if plan is None else plan.units.tolist()
    groups = found.anatomy.group_of[gone]
    return {
        "status": outcome.status.value,
        "reason": outcome.reason,
        "units": {
            group.name: int((groups == number).sum())
            for number, group in enumerate(found.anatomy.groups)
            if (groups == number).any()
        },
    }


def _quality(
    quality: Mapping[str, Mapping[str, Any]], targets: Mapping[str, float], low: str
) -> list[RenderableType]:
    """Every measure of every score, and which of the targets it meets."""
    if not quality:
        return []
    names = {"kendall_tau": "tau", "auc": "AUC", "mape": "MAPE"}
    signs = {"kendall_tau": ">=", "auc": ">=", "mape": "<="}
    wanted = [f"{name} {signs[key]} {targets[key]:g}>" for key, name in names.items()]
    rows = table("score", f"{low} found>", "top found>", *wanted, "Spearman>", "targets")
    for score, one in quality.items():
        missed = ", ".join(names[key] for key in one["missed"])
        rows.add_row(
            score,
            *(_short(one[key]) for key in ("low_overlap", "top_k_precision")),
            *(Text(_short(one[key]), style=BAD if key in one["missed"] else GOOD) for key in names),
            _short(one["spearman"]),
            f"missed: {missed}" if missed else "met",
        )
    units = max(one["units"] for one in quality.values())
    text = (
        f"{figures.things(units, 'unit')} removed one by one on samples that no score has seen; the row "
        "ablation, the same on other samples, shows how far the samples themselves agree. Tau is Kendall's. "
        "MAPE is that of the larger half, for the other rows after the best common factor. The top are the "
        "20 units that matter most, or half of all."
    )
    return [Text(text), rows]


def _next(plan: Mapping[str, Any] | None) -> list[RenderableType]:
    if plan is None:
        return []
    head = Text(f"The next cycle: {plan['status']}. {plan['reason']}", style=STRONG)
    if not plan["units"]:
        return [head]
    rows = table("group", "units that would go>")
    for name, count in plan["units"].items():
        rows.add_row(name, str(count))
    return [head, rows]


def _block(one: BlockMeasures, anatomy: Anatomy) -> dict[str, Any]:
    numbers = {
        "loss_rise": float(np.mean(one.rises)),
        "first_order": one.taylor,
        "similarity": one.similarity,
        "gradient_flow": one.gradient_flow,
        "skip_potential": one.skip_potential,
    }
    return {
        "block": one.block.name,
        "flops_fraction": one.block.flops / anatomy.flops(),
        "parameters_fraction": one.block.parameters / anatomy.parameters(),
        **_plain(numbers),
        "is_same_size": one.is_same_size,
    }


def _blocks(found: Sequence[Mapping[str, Any]] | None) -> list[RenderableType]:
    if found is None:
        return []
    if not found:
        return [Text("No residual block can be left out.")]
    names = ("loss_rise", "first_order", "similarity", "gradient_flow", "skip_potential")
    words = (f"{name.replace('_', ' ')}>" for name in names)
    rows = table("block", "of FLOPs>", "of parameters>", *words, "same size")
    for one in found:
        sizes = (figures.percent(one[f"{name}_fraction"]) for name in ("flops", "parameters"))
        rows.add_row(
            one["block"],
            *sizes,
            *(_short(one[name]) for name in names),
            "yes" if one["is_same_size"] else "no",
        )
    return [Text("What leaving out each block would cost; `esper compact --block` does it"), rows]


def _median(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """The same for JSON, which has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _short(value: float | None) -> str:
    return figures.NOT_MEASURED if value is None else f"{value:.3g}"
