"""`esper audit show`: the pruning cycles of a run, and one of them with every finalist and every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from esper.cli.render import BAD, FAINT, GOOD, STRONG, moment, table
from esper.report import figures

MOST_CYCLES, MOST_ALIKE = 40, 12
"""Rows of a table, and finalists with the same fate, that are shown unless all are asked for."""
_NUMBERS = ("screen", "loss_increase", "confidence")
_STYLES = {"accepted": GOOD, "rejected": BAD, "failed": BAD}


def cycle_list(facts: Mapping[str, Any], *, is_whole: bool) -> list[RenderableType]:
    """One row per cycle, the newest last."""
    cycles: Sequence[Mapping[str, Any]] = facts["cycles"]
    if not cycles:
        return [Text("  No pruning cycle has ended yet.")]
    shown = cycles if is_whole else cycles[-MOST_CYCLES:]
    cells = table("epoch>", "stage", "cycle", "go>", "of>", "removed>", "predicted loss>", "drop>", "because")
    for one in shown:
        cells.add_row(
            str(one["epoch"]),
            one["stage"],
            Text(one["status"], style=_STYLES.get(one["status"], "")),
            *_units(one),
            _short(one["predicted_loss"]),
            _short(one["drop"]),
            one["reason"],
        )
    named = f"{figures.things(len(cycles), 'pruning cycle')}; --epoch N shows one in full"
    hidden = len(cycles) - len(shown)
    left_out = f"  {figures.things(hidden, 'earlier cycle')} not shown; --all shows them"
    state = [Text(_state(facts["schedule"], facts["breaker"]))] if "schedule" in facts else []
    return [Text(named, style=STRONG), *([Text(left_out, style=FAINT)] if hidden else []), cells, *state]


def decision_tables(facts: Mapping[str, Any], *, is_whole: bool) -> RenderableType:
    """Every decision of one epoch: how it ended, its checks, and its finalists by their fate."""
    parts: list[RenderableType] = []
    for one in facts["decisions"]:
        head = f"Epoch {facts['epoch']}, {moment(one['at_seconds'])} UTC: {one['status']}. {one['reason']}"
        parts.append(Text(head, style=STRONG))
        parts.append(Text(f"  event {one['number']}, settings {one['settings_id']}, by {one['who']}"))
        parts.append(Text(f"  {one['allowance']['stage']}: {one['allowance']['reason']}"))
        parts += [Text(f"  {note}") for note in one["notes"]]
        for number, verdict in enumerate(one["verdicts"], 1):
            parts += _verdict(verdict, number, len(one["verdicts"]))
        parts += _finalists(one, is_whole)
    return Group(*parts)


def _verdict(verdict: Mapping[str, Any], number: int, count: int) -> list[RenderableType]:
    """One row per check; of several verdicts the last is about the smallest plan."""
    of = f" {number} of {count}" if count > 1 else ""
    cells = table("check", "passed", "measured>", "limit>", "")
    for check in verdict["checks"]:
        is_good = check["passed"]
        passed = Text("yes" if is_good else "no", style=GOOD if is_good else BAD)
        cells.add_row(check["name"], passed, _short(check["value"]), _short(check["limit"]), check["text"])
    head = Text(f"Verdict{of}: {verdict['decision']}, in {figures.seconds(verdict['duration_seconds'])}")
    return [head, *([cells] if verdict["checks"] else [])]


def _finalists(decision: Mapping[str, Any], is_whole: bool) -> list[RenderableType]:
    """The finalists by their fate, and below them what each fate means and how many share it."""
    rows = decision["finalists"]
    if not rows:
        return [Text("  No finalist was judged.")]
    cells = table("unit", "kind", "judged by", "screen>", "loss increase>", "confidence>", "saves>", "fate")
    fates = dict.fromkeys(row["reason"] for row in rows)
    told: list[Text] = []
    for fate in fates:
        alike = [row for row in rows if row["reason"] == fate]
        shown = alike if is_whole else alike[:MOST_ALIKE]
        for row in shown:
            numbers = (_short(row[name]) for name in _NUMBERS)
            saved = row["saved_fraction"]
            saves = "" if saved is None else figures.percent(saved, 2)
            cells.add_row(row["unit"], row["kind"], row["tier"] or "", *numbers, saves, fate)
        hidden = len(alike) - len(shown)
        left_out = f" ({hidden} not shown; --all shows them)" if hidden else ""
        told.append(Text(f"  {fate}: {len(alike)}. {alike[0]['why'].capitalize()}.{left_out}"))
    plan = decision["plan"]
    shares = ("removed_before", "removed_after", "goal_fraction")
    before, after, goal = (figures.percent(plan[name]) for name in shares)
    head = (
        f"{plan['units']} of {figures.things(len(rows), 'finalist')} go: {before} to {after} of the "
        f"{plan['cost']} removed ({goal} asked for), predicted loss {_short(plan['predicted_loss'])}"
    )
    return [Text(head), cells, *told]


def _units(cycle: Mapping[str, Any]) -> tuple[str, str, str]:
    """How many go, of how many, and what that removes."""
    if cycle["plan_id"] is None:
        return "", "", ""
    shares = (figures.percent(cycle[name]) for name in ("removed_before", "removed_after"))
    return str(cycle["units"]), str(cycle["finalists"]), " to ".join(shares)


def _state(schedule: Mapping[str, Any], breaker: Mapping[str, Any]) -> str:
    """What the next cycle begins with."""
    counts = f"{schedule['accepted']} accepted, {schedule['rejected']} refused or rolled back"
    opened = breaker["opened_epoch"]
    stop = "" if opened is None else f", and the breaker opened in epoch {opened}"
    failures = figures.things(breaker["failures"], "failure")
    rest = schedule["resting_until"]
    return (
        f"  {counts}; steps of {schedule['pace']:.0%} of the scheduled ones; {failures} in a row{stop}"
        f"{f'; rests until epoch {rest}' if rest else ''}."
    )


def _short(value: float | None) -> str:
    return "" if value is None else figures.plain(value)
