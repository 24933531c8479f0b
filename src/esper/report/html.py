"""The page of a run: one self-contained HTML file with inline styles and charts, light and dark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from string import Template

from esper.files import write_private
from esper.leyline import encode
from esper.report import figures
from esper.report.arms import arms_chart, arms_table, verdicts
from esper.report.blocks import beside, block, fact_list, measured, pill
from esper.report.charts import cost_chart, quality_chart
from esper.report.figures import NOT_MEASURED, MetricScale
from esper.report.picture import chart_style, render_svg
from esper.report.promises import Promise, Standing
from esper.report.report import DecisionRow, Latency, RunReport, WidthRow, WorkerRow
from esper.report.seeds import seeds_and_evidence
from esper.report.thinning import thinned

_DECISION_COLUMNS = (
    ("Group", ""),
    ("Units", "number"),
    ("Score", "number"),
    ("Confidence", "number"),
    ("Loss increase", "number"),
    ("Verdict", ""),
    ("Reason", ""),
)

_WORKER_COLUMNS = (
    ("Worker", "number"),
    ("Done", "number"),
    ("Failed", "number"),
    ("Killed", "number"),
    ("Peak memory", "number"),
    ("Condition", ""),
    ("Last trouble", ""),
)


_MOST_REACH = 1.5
"""Whiskers end where they are so many times longer than the longest bar, so that bars stay to be seen."""


def render_html(report: RunReport) -> str:
    """The whole page as text; every word that comes from the report is escaped."""
    page = files("esper.report").joinpath("page.html").read_text(encoding="utf-8")
    return figures.printable(
        Template(page).substitute(
            title=escape(report.title),
            summary=summary_of(report),
            style=style().strip(),
            body="\n".join(section for section in sections(report).values() if section),
        )
    )


def style() -> str:
    """The style sheet that every section is made for."""
    return chart_style() + files("esper.report").joinpath("page.css").read_text(encoding="utf-8")


def sections(report: RunReport) -> dict[str, str]:
    """The parts of a page by name, as HTML in their order; '' where there is nothing to show."""
    drawn = thinned(report)
    costs = f'<div class="stack">{_latency(report.latency)}{_overhead(report)}</div>'
    return {
        "figures": _cards(report),
        "arms": _arms(report),
        "quality": _quality(drawn, len(report.epochs)),
        "cost": beside(_cost(drawn), costs),
        "widths": _widths(report.widths),
        "decisions": _decisions(report.decisions, report.unit),
        "seeds": seeds_and_evidence(report),
        "promises": _promises(report.promises),
        "proof": beside(_proof(report), _environment(report)),
        "workers": _workers(report.workers),
        "notes": _notes(report.notes),
    }


def write_report(report: RunReport, folder: Path) -> Path:
    """Writes `report.json`, `report.svg` and `report.html` into an existing folder; returns the page's path.

    Only their owner can read them, as all that is in a run directory.

    Raises:
        OSError: one of them could not be written; what had its name is as it was.
    """
    page = folder / "report.html"
    write_private(folder / "report.json", json.dumps(encode(report), indent=1) + "\n")
    write_private(folder / "report.svg", render_svg(report))
    write_private(page, render_html(report))
    return page


def summary_of(report: RunReport) -> str:
    """One line: what was trained, for how long, and what decides; HTML."""
    cuts = sum(mark.kind == "cut" for mark in report.marks)
    rows = figures.things(len(report.epochs), report.unit)
    if report.period_steps is not None:
        rows += f" of {figures.things(report.period_steps, 'step')}"
    return (
        f'<span class="name">{escape(report.model)}</span>, {rows}, '
        f"{figures.things(cuts, 'cut')}; judged by {escape(report.metric)} "
        f"({'higher' if report.higher_is_better else 'lower'} is better)."
    )


def _card(name: str, big: str, before_after: tuple[str, str] | None, aside: str = "") -> str:
    tone = "big none" if big == NOT_MEASURED else "big"
    change = f"{escape(before_after[0])}<i>→</i>{escape(before_after[1])}" if before_after else ""
    return (
        f'<div class="card"><h2>{escape(name)}</h2><div class="{tone}">{escape(big)}</div>'
        f'<div class="from">{change}</div><div class="aside">{escape(aside)}</div></div>'
    )


def _cards(report: RunReport) -> str:
    cards = [
        _card(
            "FLOPs",
            figures.change(report.flops_before, report.flops_after),
            (figures.count(report.flops_before), figures.count(report.flops_after)),
            "one forward pass, one sample",
        ),
        _card(
            "Parameters",
            figures.change(report.parameters_before, report.parameters_after),
            (figures.count(report.parameters_before), figures.count(report.parameters_after)),
            f"{figures.size(report.bytes_before)} → {figures.size(report.bytes_after)}",
        ),
        _latency_card(report.latency),
        _quality_card(report),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _latency_card(latency: Latency | None) -> str:
    if latency is None:
        return _card("Latency", NOT_MEASURED, None)
    return _card(
        "Latency",
        figures.speedup(latency.speedup),
        (figures.milliseconds(latency.before_ms), figures.milliseconds(latency.after_ms)),
        f"{'within the noise of the timings; ' if latency.is_noise else ''}batch of {latency.batch_size}, "
        f"{latency.device}",
    )


def _quality_card(report: RunReport) -> str:
    scale, twin = MetricScale.of(report), report.twin_values
    before, after = report.quality_before, report.quality_after
    of_twin = f"uncut twin at the end: {scale.text(twin[max(twin)])}" if twin else ""
    aside = "; ".join(text for text in (report.quality_source, of_twin) if text)
    both = None if before is None else (scale.text(before), scale.text(after))
    return _card(report.metric.capitalize(), scale.text(after), both, aside)


def _quality(report: RunReport, epochs: int) -> str:
    title = f"{report.metric.capitalize()} while training"
    if not report.epochs:
        return block(title, f'<p class="none">{NOT_MEASURED}</p>')
    drawn = len(report.epochs)
    thin = f"{drawn} of {epochs} {report.unit}s are drawn, with every extreme. " if drawn < epochs else ""
    return block(
        title,
        f'<div class="scroll chart">{quality_chart(report)}</div>',
        f"{thin}Dotted lines show where the network itself was changed. "
        f"Point at {'an' if report.unit == 'epoch' else 'a'} {report.unit} for its numbers.",
    )


def _cost(report: RunReport) -> str:
    if not report.epochs or not report.flops_before:
        return ""
    return block(
        "Cost while training",
        f'<div class="scroll chart small">{cost_chart(report)}</div>',
        "Shares of what the network cost at the start; masked units count as gone.",
    )


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return block("Latency", f'<p class="none">{NOT_MEASURED}</p>')
    rows = (
        ("before", latency.before_ms, latency.before_spread_ms),
        ("after", latency.after_ms, latency.after_spread_ms),
    )
    reach = _MOST_REACH * max(latency.before_ms, latency.after_ms)
    longest = min(max(middle + spread / 2 for _, middle, spread in rows), reach)
    bars = "".join(_time_bar(name, middle, spread, longest) for name, middle, spread in rows)
    is_cut = any(spread / 2 > min(middle, longest - middle) for _, middle, spread in rows)
    cut = ", and has no end where it is longer than its place" if is_cut else ""
    return block(
        "Latency",
        f'<div class="times">{bars}</div><p class="none">Median of {latency.repeats} forward passes of each '
        f"network, by turns in one process; batch of {latency.batch_size} on {escape(latency.device)}. "
        f"The whisker is as long as the middle half of the timings{cut}.</p>",
        f"{figures.speedup(latency.speedup).capitalize()}{_doubt(latency)}.",
    )


def _doubt(latency: Latency) -> str:
    """That a difference is none to rely on, where the timings do not bear it out."""
    if not latency.is_noise:
        return ""
    spread = max(latency.before_spread_ms, latency.after_spread_ms)
    return (
        f" by the medians, which is within the noise: they differ by "
        f"{figures.milliseconds(abs(latency.before_ms - latency.after_ms))}, and the timings spread by "
        f"{figures.milliseconds(spread)}"
    )


def _time_bar(name: str, middle: float, spread: float, longest: float) -> str:
    low, high = max(middle - spread / 2, 0.0), min(middle + spread / 2, longest)
    start, span = 100 * low / longest, 100 * (high - low) / longest
    ends = (("more-before", middle < spread / 2), ("more-after", middle + spread / 2 > longest))
    style = " ".join(name for name, is_cut in ends if is_cut)
    return (
        f'<div class="time {name}"><span>{name}</span><div class="beam">'
        f'<span style="width:{100 * middle / longest:.2f}%"></span>'
        f'<u class="{style}" style="left:{start:.2f}%;width:{span:.2f}%"></u></div>'
        f"<em>{figures.milliseconds(middle)}</em></div>"
    )


def _widths(widths: Sequence[WidthRow]) -> str:
    if not widths:
        return ""
    blocks = []
    for kind in dict.fromkeys(row.kind for row in widths):
        rows = [row for row in widths if row.kind == kind]
        widest = max(row.before for row in rows) or 1
        left, total = sum(row.after for row in rows), sum(row.before for row in rows)
        bars = "".join(_width_bar(row, widest) for row in rows)
        blocks.append(f'<h3>{escape(kind)}s: {left} of {total} kept</h3><div class="widths">{bars}</div>')
    return block(
        "Width of every layer",
        "".join(blocks),
        "The full bar is what the network had, the filled part what is left.",
    )


def _width_bar(row: WidthRow, widest: int) -> str:
    name = escape(row.group)
    share = 100 * row.after / row.before if row.before else 0.0
    return (
        f'<div class="width" title="{name}: {row.before} before, {row.after} after">'
        f'<b class="name"><bdi>{name}</bdi></b>'
        f'<div><div class="track" style="width:{max(100 * row.before / widest, 2):.1f}%">'
        f'<span style="width:{share:.1f}%"></span></div></div><em>{row.before} → {row.after}</em></div>'
    )


def _decisions(decisions: Sequence[DecisionRow], unit: str) -> str:
    if not decisions:
        return ""
    head = "".join(
        f'<th class="{style}">{name}</th>'
        for name, style in ((unit.capitalize(), "number"), *_DECISION_COLUMNS)
    )
    together = groupby(decisions, key=lambda row: (row.epoch, row.verdict, row.reason))
    body = "".join(_decision(tuple(rows)) for _, rows in together)
    return block(
        "Decisions and their evidence",
        f'<div class="tall"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>',
        "By how much the loss changed with these units switched off in the twin, on held-out data: in a run "
        "with a target each after those of its layer that go before it, otherwise each alone.",
    )


def _decision(rows: Sequence[DecisionRow]) -> str:
    """Rows of one decision: epoch, verdict and reason stand once, beside the evidence of every group."""
    first, span = rows[0], f' rowspan="{len(rows)}"' if len(rows) > 1 else ""
    epoch = f'<td class="number"{span}>{first.epoch}</td>'
    verdict = f'<td{span}>{pill(first.verdict)}</td><td class="reason"{span}>{escape(first.reason)}</td>'
    evidence = ["".join(f'<td class="{style}">{text}</td>' for style, text in _evidence(row)) for row in rows]
    return f"<tr>{epoch}{evidence[0]}{verdict}</tr>" + "".join(f"<tr>{cells}</tr>" for cells in evidence[1:])


def _evidence(row: DecisionRow) -> tuple[tuple[str, str], ...]:
    return (
        ("name", escape(row.group)),
        ("number", escape(figures.things(row.units, row.kind))),
        ("number", measured(figures.plain(row.score))),
        ("number", measured(figures.percent(row.confidence, 0))),
        ("number", measured(figures.plain(row.loss_increase))),
    )


def _arms(report: RunReport) -> str:
    """The trainings that a run was compared with: what each has cost, what came out, and who has won."""
    lines = "".join(f"<li>{escape(line)}</li>" for line in verdicts(report))
    content = f"{arms_chart(report)}{arms_table(report)}<ul>{lines}</ul>" if report.arms else ""
    lead = "Every training on the same samples, by what it has cost."
    return block("Compared", content, lead) if content else ""


def _proof(report: RunReport) -> str:
    proof = report.proof
    if proof is None:
        return block("Proof of equality", f'<p class="none">{NOT_MEASURED}</p>')
    rows = [
        ("outputs in float32", figures.plain(proof.float32_error)),
        ("outputs in float64", figures.plain(proof.float64_error)),
        ("gradients", figures.plain(proof.gradient_error)),
        ("parameters after one optimizer step", figures.plain(proof.optimizer_step_error)),
        ("held-out samples compared", str(proof.samples)),
    ]
    lead = "The largest difference anywhere between the cut network and the masked one it replaced."
    return block("Proof of equality", fact_list(rows), lead)


def _overhead(report: RunReport) -> str:
    overhead = report.overhead
    if overhead is None:
        return block("What Esper cost", f'<p class="none">{NOT_MEASURED}</p>')
    stall = overhead.checkpoint_stall_ms_per_gb
    rows = [
        ("tracking, share of a training step", figures.percent(overhead.tracking_fraction, 3)),
        ("counting and telemetry, likewise", figures.percent(overhead.counting_fraction, 3)),
        ("training stalled by a checkpoint", NOT_MEASURED if stall is None else f"{stall:.0f} ms per GB"),
        ("training time, Esper included", figures.seconds(overhead.training_seconds)),
        ("of which Esper", figures.seconds(overhead.esper_seconds)),
        ("share of Esper", figures.percent(overhead.esper_fraction, 2)),
    ]
    return block("What Esper cost", fact_list(rows), "In the training process, measured by this run itself.")


def _workers(workers: Sequence[WorkerRow]) -> str:
    if not workers:
        return ""
    head = "".join(f'<th class="{style}">{name}</th>' for name, style in _WORKER_COLUMNS)
    body = "".join(f"<tr>{_worker(row)}</tr>" for row in workers)
    return block(
        "Analysis workers",
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>',
        "How many attempts at a task ended in which way, in the process that finished the run.",
    )


def _worker(row: WorkerRow) -> str:
    numbers = (str(row.worker), str(row.done), str(row.failed), str(row.killed), figures.size(row.peak_bytes))
    cells = "".join(f'<td class="number">{measured(text)}</td>' for text in numbers)
    return f'{cells}<td>{pill(row.condition)}</td><td class="reason">{escape(row.message)}</td>'


def _promises(promises: Sequence[Promise]) -> str:
    if all(promise.standing is Standing.UNKNOWN for promise in promises):
        return ""
    body = "".join(
        f"<tr><td>{pill(promise.standing.value)}</td><td>{escape(promise.text)}</td></tr>"
        for promise in promises
    )
    head = (
        '<tr><th scope="col">Standing</th><th scope="col">What was measured, and what is promised</th></tr>'
    )
    return block(
        "What Esper promises",
        f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>',
        "Held against what this run has measured; what nobody has measured is unknown.",
    )


def _environment(report: RunReport) -> str:
    return block("Environment", fact_list(report.environment.items())) if report.environment else ""


def _notes(notes: Sequence[str]) -> str:
    return (
        block("Notes", "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>")
        if notes
        else ""
    )
