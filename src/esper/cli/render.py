"""Tables for the terminal. Text from models and files goes in as it is: nothing is read as markup."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from esper.cli.drawing import layer_tree
from esper.cli.explain import SettingRow
from esper.nissa import events
from esper.report import Latency, RunReport, arm_cells, figures, verdicts
from esper.runs import AnatomyRows, CheckpointRow, FrozenRow, GroupRow, VerifyRow
from esper.wording import alike

GOOD, BAD, STRONG, FAINT = "green", "bold red", "bold", "dim"


def anatomy_table(rows: AnatomyRows) -> RenderableType:
    """Groups under the module they belong to, then what is frozen and why."""
    head = Text.assemble(
        (figures.things(rows.units, "removable unit"), STRONG),
        f" in {figures.things(len(rows.groups), 'group')}, ",
        f"{figures.count(rows.flops)} FLOPs for one sample, {figures.count(rows.parameters)} parameters",
    )
    cells = table("group", "kind", "units>", "of FLOPs>", "of parameters>", "made by", "read by")
    parent = ""
    for row in rows.groups:
        above, _, name = row.name.rpartition(".")
        if above and above != parent:
            cells.add_row(Text(above, style=STRONG))
        parent = above
        cells.add_row(*_group_cells(row, f"  {name}" if above else name))
    if not rows.groups:
        nothing = "No units can be removed" if rows.blocks else "Nothing can be removed"
        said = Text(f"{nothing} from this network.", style=BAD)
        return Group(head, said, *_blocks(rows), _frozen(rows.frozen))
    tree = [layer_tree(rows)] if rows.layers else []
    return Group(head, *tree, cells, *_blocks(rows), _frozen(rows.frozen))


def _blocks(rows: AnatomyRows) -> list[RenderableType]:
    """Layers that can be left out whole, if there are any."""
    if not rows.blocks:
        return []
    cells = table("layer that can be left out", "of FLOPs>", "of parameters>")
    for row in rows.blocks:
        cells.add_row(row.name, figures.percent(row.flops_fraction), figures.percent(row.parameters_fraction))
    return [cells]


def compact_table(facts: Mapping[str, Any]) -> RenderableType:
    """What a cut saved, every width that changed, and what people should know."""
    cells = table("", "before>", "after>", "change>")
    for name, key in (("FLOPs, one sample", "flops"), ("parameters", "parameters")):
        before, after = facts[key]
        cells.add_row(name, figures.count(before), figures.count(after), figures.change(before, after))
    for name, before, after, change in _quality(facts.get("quality")):
        cells.add_row(name, before, after, change)
    for name in facts.get("blocks", ()):
        cells.add_row(name, "", "removed", "")
    changed = {name: widths for name, widths in facts["widths"].items() if widths[0] != widths[1]}
    for name, (before, after) in changed.items():
        cells.add_row(name, str(before), str(after), figures.change(before, after))
    error = facts.get("proof", {}).get("float64_error")
    lines = [f"written to {facts['out']}"]
    if error is not None:
        lines.append(f"cut against masked network: largest difference {figures.plain(error)} in float64")
    moved = facts.get("proof", {}).get("approximation")
    if moved is not None:
        lines.append(f"normalizations run over what is left, which moves the outputs by {moved:.1%}")
    if "onnx" in facts:
        lines.append(f"ONNX: difference {figures.plain(facts['onnx']['error'])} in {facts['onnx']['engine']}")
    lines += [event.text for event in events.LeftWhole.of(facts.get("refused", {}))]
    return Group(cells, *(Text(f"  {line}") for line in (*lines, *facts["notes"])))


def _quality(quality: Mapping[str, Any] | None) -> list[tuple[str, str, str, str]]:
    """Loss and accuracy on held-out samples, where they were measured."""
    if quality is None:
        return []
    samples = f"{quality['samples']} held-out samples"
    before, after = quality["loss_before"], quality["loss_after"]
    old, new, change = alike(before, after, abs(after - before))
    rows = [(f"loss, {samples}", old, new, f"{'-' if after < before else '+'}{change}")]
    before, after = quality["accuracy_before"], quality["accuracy_after"]
    if before is not None and after is not None:
        rows.append(("accuracy", f"{before:.2%}", f"{after:.2%}", f"{100 * (after - before):+.2f} points"))
    return rows


def report_table(report: RunReport) -> RenderableType:
    """Before and after, and what the claim rests on."""
    cells = table("", "before>", "after>", "change>")
    for name, before, after, write in (
        ("FLOPs, one sample", report.flops_before, report.flops_after, figures.count),
        ("parameters", report.parameters_before, report.parameters_after, figures.count),
        ("size", report.bytes_before, report.bytes_after, figures.size),
    ):
        cells.add_row(name, write(before), write(after), figures.change(before, after))
    if report.latency is None:
        cells.add_row("latency", figures.NOT_MEASURED, figures.NOT_MEASURED, "")
    else:
        cells.add_row(*_latency_cells(report.latency))
    scale = figures.MetricScale.of(report)
    old, new = report.quality_before, report.quality_after
    gap = "" if old is None or new is None else scale.difference(new - old)
    cells.add_row(report.metric, scale.text(old), scale.text(new), gap)
    tested = f"test {report.metric}"
    if report.epochs and tested in report.epochs[-1].metrics:
        # Data that no decision has seen; an epoch measures it, and the last cut changes no output.
        cells.add_row(f"{tested}, last epoch", "", scale.text(report.epochs[-1].metrics[tested]), "")
    workers = worker_table([dataclasses.asdict(row) for row in report.workers])
    return Group(Text(report.title, style=STRONG), cells, *_claims(report, scale), *workers)


def growing_table(report: RunReport, pruned: str) -> RenderableType:
    """The grown network beside those that never grew, who has won, and what became of the seeds.

    Args:
        report: of the run that grew.
        pruned: what came of pruning it, in words.
    """
    cells = table("", "epochs>", "training FLOPs>", "FLOPs>", "parameters>", f"{report.metric}>")
    for row in arm_cells(report):
        cells.add_row(*row)
    ends = Counter(row.after for row in report.seeds if row.after in ("GERMINATED", "CULLED", "FOSSILIZED"))
    refused = sum(row.before == row.after == "DORMANT" for row in report.seeds)
    tried = figures.things(ends["GERMINATED"] + refused, "seed")
    fates = [f"{ends['FOSSILIZED']} kept"]
    if ends["CULLED"]:
        fates.append(
            f"{ends['CULLED']} culled: a gate refused it, or another place tried at the same time "
            "brought more"
        )
    if refused:
        fates.append(f"{refused} refused before it was made a seed: the report says why")
    seeds = f"{tried} tried, {'; '.join(fates)}."
    if not report.seeds:
        seeds = next(
            (note for note in report.notes if note.startswith("No seed was tried")), "No seed was tried."
        )
    lines = (seeds, pruned, *verdicts(report))
    return Group(Text(report.title, style=STRONG), cells, *(Text(f"  {line}") for line in lines))


def worker_table(rows: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """One row per worker process; nothing where none has done anything."""
    if not rows:
        return []
    cells = table("analysis worker>", "tasks done>", "failed>", "killed>", "peak memory>", "condition", "")
    for row in rows:
        condition = Text(row["condition"], style=BAD if row["condition"] == "failing" else "")
        counts = (str(row[name]) for name in ("worker", "done", "failed", "killed"))
        cells.add_row(*counts, figures.size(row["peak_bytes"]), condition, row["message"])
    return [cells]


def setting_list(rows: Sequence[SettingRow], explain: bool) -> RenderableType:
    """Every setting under its section, as TOML writes it; with `explain` also type, default and meaning."""
    lines: list[RenderableType] = []
    section = None
    for row in rows:
        above, _, name = row.key.rpartition(".")
        if above != section:
            lines.append(Text(f"\n[{above}]", style=STRONG))
            section = above
        origin = "" if row.source == "default" else f"  (from {row.source})"
        lines.append(Text.assemble((name, STRONG), f" = {_value(row.value)}{origin}"))
        if explain:
            about = f"{row.type}; default {_value(row.default)}"
            lines.append(Padding(Text.assemble(f"{row.meaning} ", (f"({about})", FAINT)), (0, 0, 0, 4)))
    return Group(*lines)


def _value(value: object) -> str:
    return "unset" if value is None else json.dumps(value)


def _claims(report: RunReport, scale: figures.MetricScale) -> list[RenderableType]:
    """One line each for the uncut twin, the proof of equality, and the cost of Esper."""
    proof, overhead, twin = report.proof, report.overhead, scale.difference(report.final_lead)
    if report.worst_lead is not None:
        twin = f"{twin}; at worst {scale.difference(report.worst_lead)}"
    error = figures.plain(proof.float32_error) if proof else figures.NOT_MEASURED
    share = figures.percent(overhead.esper_fraction, 2) if overhead else figures.NOT_MEASURED
    lines = {
        "difference to the uncut twin": twin,
        "cut against masked network": f"largest difference {error}" if proof else error,
        "share of Esper in the training time": share,
    }
    return [Text(f"  {name}: {value}") for name, value in lines.items()]


def checkpoint_table(run: Path, rows: Sequence[CheckpointRow]) -> RenderableType:
    """Oldest first; what cannot be used says why."""
    if not rows:
        return Text(f"{run} holds no checkpoints yet.")
    cells = table("checkpoint", "step>", "epoch>", "saved (UTC)", "size>", "attached", "")
    for row in rows:
        saved = "" if row.created_seconds is None else moment(row.created_seconds)
        cells.add_row(
            row.name,
            "" if row.step is None else str(row.step),
            "" if row.epoch is None else str(row.epoch),
            saved,
            "" if row.size_bytes is None else figures.size(row.size_bytes),
            _attached(row.attachments),
            Text("; ".join(row.problems), style=BAD),
        )
    return cells


def _attached(names: Sequence[str]) -> str:
    """Masks by name; of records how many."""
    counts = {what: sum(name.startswith(f"{what}-") for name in names) for what in ("decision", "cycle")}
    others = [name for name in names if not name.startswith(tuple(f"{what}-" for what in counts))]
    return ", ".join([*others, *(figures.things(n, what) for what, n in counts.items() if n)])


def verify_table(rows: Sequence[VerifyRow]) -> RenderableType:
    """For every checkpoint: intact, damaged, or good by one of two copies of a key."""
    cells = table("checkpoint", "state", "verified>", "")
    for row in rows:
        state = Text("opens by one copy", style=BAD) if row.weaknesses else Text("intact", style=GOOD)
        state = Text("damaged", style=BAD) if row.problems else state
        cells.add_row(row.name, state, figures.size(row.verified_bytes), "; ".join(row.findings))
    return cells


def _latency_cells(latency: Latency) -> tuple[str, ...]:
    name = f"latency, batch {latency.batch_size}, {latency.device}"
    before, after = figures.milliseconds(latency.before_ms), figures.milliseconds(latency.after_ms)
    return name, before, after, figures.faster(latency)


def _group_cells(row: GroupRow, name: str) -> tuple[str, ...]:
    flops, parameters = figures.percent(row.flops_fraction), figures.percent(row.parameters_fraction)
    made, read = ", ".join(row.modules("producer")), ", ".join(row.modules("consumer"))
    kind = f"{row.kind}, approximate" if row.coupling else row.kind
    return name, kind, str(row.width), flops, parameters, made, read


def _frozen(rows: Sequence[FrozenRow]) -> RenderableType:
    if not rows:
        return Text("Nothing is frozen.")
    cells = table("frozen axis", "width>", "because")
    for row in rows:
        cells.add_row(row.name, str(row.width), row.reason)
    return cells


def table(*columns: str) -> Table:
    """An open table; a column whose name ends in `>` is aligned to the right."""
    cells = Table(box=SIMPLE_HEAD, header_style=STRONG, pad_edge=False)
    for column in columns:
        cells.add_column(
            column.removesuffix(">"), justify="right" if column.endswith(">") else "left", overflow="fold"
        )
    return cells


def moment(seconds: float) -> str:
    """Date and time of day, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
