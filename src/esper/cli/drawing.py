"""The network as a tree for the terminal, and as a picture."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text
from rich.tree import Tree

from esper import files
from esper.errors import CheckpointMissing, ConfigError
from esper.report import MapGroup, MapLayer, figures, network_map
from esper.runs import AnatomyRows


def draw(target: str, rows: AnatomyRows, path: Path) -> None:
    """Writes the picture of a network.

    Raises:
        CheckpointMissing: the checkpoint does not hold the graph, so the order of layers is not known.
        ConfigError: the file cannot be written.
    """
    if not rows.layers:
        raise CheckpointMissing(
            f"{target} holds no graph of the network, so there is nothing to draw. Inspect "
            "module:function, or a checkpoint that a session wrote."
        )
    try:
        files.write_over(path, network_map(target, rows.layers, groups_of(rows)))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. {files.advice(error)}") from error


def groups_of(rows: AnatomyRows) -> tuple[MapGroup, ...]:
    """The groups as the picture shows them."""
    return tuple(MapGroup(row.name, row.kind, row.width, row.flops_fraction) for row in rows.groups)


def layer_tree(rows: AnatomyRows) -> Tree:
    """Modules inside modules; at every layer what its channels belong to, or which operator froze them."""
    root = Tree(Text("modules", style="bold"), guide_style="dim")
    branches: dict[str, Tree] = {"": root}
    groups = groups_of(rows)
    for layer in rows.layers:
        path = ""
        *above, name = layer.name.split(".")
        for part in above:
            inside = f"{path}.{part}" if path else part
            if inside not in branches:
                branches[inside] = branches[path].add(Text(part, style="bold"))
            path = inside
        branches[layer.name] = branches[path].add(_line(name, layer, groups))
    return root


def _line(name: str, layer: MapLayer, groups: tuple[MapGroup, ...]) -> Text:
    line = Text.assemble((name, "bold"), f"  {layer.operator} {layer.inputs} → {layer.outputs}")
    for number in layer.makes:
        group = groups[number]
        line.append(f"  {group.width} {group.kind}s", "green")
        line.append(f" of {group.name}, {figures.percent(group.flops_fraction)} of FLOPs")
    for part in [part for part in layer.parts if part.group < 0][:1]:
        line.append(f"  {part.count} frozen: {part.reason}", "dim")
    if layer.reads:
        line.append(f"  reads {', '.join(groups[number].name for number in layer.reads)}", "cyan")
    return line
