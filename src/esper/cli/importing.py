"""`esper import`: a file that others wrote becomes files that are safe to load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from esper.cli import output
from esper.cli.commands import AsJson
from esper.cli.render import FAINT, STRONG
from esper.report import figures

if TYPE_CHECKING:
    from esper.runs.foreign import Brought

_MOST_SHOWN = 12


def import_file(
    file: Annotated[Path, typer.Argument(help="A file of torch.save, or a .pt2 of torch.export.save.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for what is written.")],
    unconfined: Annotated[
        bool,
        typer.Option(
            "--unconfined",
            help="Read it in a process that may do what you may; only if you trust its author.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make safe files of one that others wrote: safetensors and JSON, or a program that Esper reads.

    The file is read in a process that can write, connect and start nothing.
    """
    from esper.runs.foreign import bring

    brought = bring(file, out, unconfined=unconfined)
    facts = {
        "from": str(file),
        "files": [str(one) for one in brought.files],
        "kind": brought.document["kind"],
        "tensors": brought.document["tensors"],
        "left_out": brought.document["left_out"],
        "how": brought.how,
        "swept": [str(one) for one in brought.swept],
    }
    output.show(_told(file, facts, brought), facts, as_json)


def _told(file: Path, facts: dict[str, Any], brought: Brought) -> RenderableType:
    names = " and ".join(one.name for one in brought.files)
    count = figures.things(facts["tensors"], "tensor")
    head = f"{file} holds {count}; now in {brought.files[0].parent}: {names}."
    lines = [Text(head, style=STRONG)]
    left_out = facts["left_out"]
    if left_out:
        lines.append(Text(f"Left out: {figures.things(len(left_out), 'value')}."))
        lines += [Text(f"  {json.dumps(name)}: {why}") for name, why in list(left_out.items())[:_MOST_SHOWN]]
    if len(left_out) > _MOST_SHOWN:
        lines.append(
            Text(f"  and {len(left_out) - _MOST_SHOWN} more, all in {brought.files[-1]}", style=FAINT)
        )
    if brought.swept:
        folders = figures.things(len(brought.swept), "folder")
        lines.append(Text(f"Removed {folders} that an import to the same place had left when it was killed."))
    return Group(*lines, Text(brought.how))
