"""A network as one picture: layers in the order of the computation, colored by what has to go together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from esper.report import figures
from esper.report.plot import text

_ROW, _TOP_OF_ROWS, _LANE = 24.0, 88.0, 14.0
_BOXES, _NOTES, _GAP = 300.0, 520.0, 18.0
_LETTER = 6.6  # width of one letter of the labels, on average
_SIZES_WIDTH, _LONGEST_REASON = 170.0, 52
_GOLDEN_ANGLE = 137.508

_STYLE = """
svg{font:12px system-ui,-apple-system,"Segoe UI",sans-serif;background:#fff}
text{fill:#1f2328}.faint{fill:#767c85}.strong{font-weight:600}.title{font-size:17px;font-weight:600}
.end{text-anchor:end}.frozen{fill:#c9ccd1}.band{fill:#f5f6f8}.lane{stroke-width:2.5;fill:none}
.reads{fill:#fff;stroke-width:2.2}.box{stroke:#fff;stroke-width:1}.none{fill:none;stroke:#c9ccd1}
@media (prefers-color-scheme:dark){svg{background:#15181c}text{fill:#e6e8ea}.faint{fill:#9299a3}
.band{fill:#1c2026}.reads{fill:#15181c}.box{stroke:#15181c}.frozen{fill:#4b5159}}
"""


@dataclass(frozen=True)
class MapGroup:
    """Units that go one by one, each from all its layers at once; the share is that of the whole group."""

    name: str
    kind: str
    width: int
    flops_fraction: float


@dataclass(frozen=True)
class MapPart:
    """Neighboring channels of one layer: of one group (its number), or frozen for a reason (group -1)."""

    count: int
    group: int
    reason: str = ""


@dataclass(frozen=True)
class MapLayer:
    """One layer: what it computes, its widths, what its channels belong to, and the groups that it reads."""

    name: str
    operator: str
    inputs: int
    outputs: int
    parts: tuple[MapPart, ...]
    reads: tuple[int, ...]

    @property
    def makes(self) -> tuple[int, ...]:
        """The groups of its channels, each once."""
        return tuple(dict.fromkeys(part.group for part in self.parts if part.group >= 0))


def network_map(title: str, layers: Sequence[MapLayer], groups: Sequence[MapGroup]) -> str:
    """The picture as one SVG document; every box and dot has a tooltip.

    Args:
        title: what the network is.
        layers: from first to last.
        groups: those that the layers name by number.
    """
    lanes = _lanes(layers)
    labels = max([len(layer.name) for layer in layers] + [12]) * _LETTER + 24
    left = labels + _LANE * (max(lanes.values(), default=0) + 1) + _GAP
    width = left + _BOXES + _NOTES
    top = _TOP_OF_ROWS
    parts = [_STYLE_TAG, *_legend(title, layers, groups)]
    widest = max((layer.outputs for layer in layers), default=1)
    for number, layer in enumerate(layers):
        parts += _row(layer, number, top + number * _ROW, labels, left, widest, groups)
    parts += [_lane(group, lane, layers, groups, labels, top) for group, lane in lanes.items()]
    height = top + len(layers) * _ROW + 16
    box = f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>\n"
    )


_STYLE_TAG = f"<style>{_STYLE}</style>"


def color(group: int) -> str:
    """Neighbors differ most: hues step by the golden angle, and lightness alternates."""
    return f"hsl({(205 + group * _GOLDEN_ANGLE) % 360:.0f} 58% {50 + 7 * (group % 3 - 1)}%)"


def _lanes(layers: Sequence[MapLayer]) -> dict[int, int]:
    """A vertical track for every group, reused once a group has ended."""
    spans: dict[int, tuple[int, int]] = {}
    for row, layer in enumerate(layers):
        for group in (*layer.makes, *layer.reads):
            spans[group] = (spans.get(group, (row, row))[0], row)
    ends: list[int] = []
    lanes: dict[int, int] = {}
    for group, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        lane = next((n for n, end in enumerate(ends) if end < first), len(ends))
        ends[lane : lane + 1] = [last]
        lanes[group] = lane
    return lanes


def _row(
    layer: MapLayer,
    number: int,
    y: float,
    labels: float,
    left: float,
    widest: int,
    groups: Sequence[MapGroup],
) -> list[str]:
    band = f'<rect x="0" y="{y:.1f}" width="100%" height="{_ROW}" class="band"/>' if number % 2 else ""
    above, dot, name = layer.name.rpartition(".")
    label = (
        f'<text x="{labels - 14:.1f}" y="{y + 16:.1f}" class="end"><tspan class="faint">'
        f'{escape(above + dot)}</tspan><tspan class="strong">{escape(name)}</tspan></text>'
    )
    full = max(8.0, _BOXES * math.sqrt(layer.outputs / widest))
    x = left + (_BOXES - full) / 2
    boxes = []
    for part in layer.parts:
        share = full * part.count / layer.outputs
        look = 'class="box frozen"' if part.group < 0 else f'class="box" fill="{color(part.group)}"'
        words = escape(_words(part, groups))
        boxes.append(
            f'<rect x="{x:.1f}" y="{y + 4:.1f}" width="{max(share, 1.0):.1f}" height="{_ROW - 8:.1f}" rx="3" '
            f"{look}><title>{escape(layer.name)}: {words}</title></rect>"
        )
        x += share
    sizes, notes = f"{layer.operator}  {layer.inputs} → {layer.outputs}", left + _BOXES + _GAP
    about = (
        text(notes, y + 16, sizes, "faint"),
        text(notes + _SIZES_WIDTH, y + 16, _note(layer, groups), "faint"),
    )
    return [band, label, *boxes, *about]


def _note(layer: MapLayer, groups: Sequence[MapGroup]) -> str:
    """What a reader wants to know of a layer without pointing at it."""
    if layer.makes:
        found = [groups[number] for number in layer.makes]
        units = ", ".join(f"{group.width} {group.kind}s" for group in found[:2])
        share = sum(group.flops_fraction for group in found)
        return f"{units}, {figures.percent(share)} of the FLOPs{' ...' if len(found) > 2 else ''}"
    reason = max(layer.parts, key=lambda part: part.count).reason
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"


def _words(part: MapPart, groups: Sequence[MapGroup]) -> str:
    if part.group < 0:
        return f"{part.count} frozen: {part.reason}"
    group = groups[part.group]
    return (
        f"{part.count} of group {group.name} ({group.width} {group.kind} units, "
        f"{figures.percent(group.flops_fraction)} of the FLOPs)"
    )


def _lane(
    group: int,
    lane: int,
    layers: Sequence[MapLayer],
    groups: Sequence[MapGroup],
    labels: float,
    top: float,
) -> str:
    x = labels + _LANE * (lane + 0.5)
    places = {
        row: group in layer.makes for row, layer in enumerate(layers) if group in (*layer.makes, *layer.reads)
    }
    first, last = (top + (row + 0.5) * _ROW for row in (min(places), max(places)))
    tint = color(group)
    dots = []
    for row, makes in places.items():
        look = f'fill="{tint}"' if makes else f'class="reads" stroke="{tint}"'
        does = "made" if makes else "read"
        words = f"{groups[group].name}: {does} by {layers[row].name}"
        dots.append(
            f'<circle cx="{x:.1f}" cy="{top + (row + 0.5) * _ROW:.1f}" r="4.2" {look}>'
            f"<title>{escape(words)}</title></circle>"
        )
    return f'<path d="M{x:.1f} {first:.1f}V{last:.1f}" class="lane" stroke="{tint}"/>{"".join(dots)}'


def _legend(title: str, layers: Sequence[MapLayer], groups: Sequence[MapGroup]) -> list[str]:
    """The title, and what the marks mean."""
    frozen = sum(part.count for layer in layers for part in layer.parts if part.group < 0)
    total = sum(layer.outputs for layer in layers)
    head = (
        f"{figures.things(len(layers), 'layer')}, {figures.things(len(groups), 'coupled group')}; "
        f"{figures.percent(1 - frozen / total if total else 0.0, 0)} of the channels can go"
    )
    box, dot = (
        '<rect x="{x:.0f}" y="58" width="20" height="12" rx="3" ',
        '<circle cx="{x:.0f}" cy="64" r="4.2" ',
    )
    marks = [
        (box + 'fill="{c}"/>', 28, "channels of a coupled group (wider: more)"),
        (box + 'class="frozen"/>', 28, "frozen"),
        (dot + 'fill="{c}"/>', 12, "makes the group"),
        (dot + 'class="reads" stroke="{c}"/>', 12, "reads it, so loses the same"),
    ]
    parts, x = [text(20, 26, title, "title"), text(20, 45, head, "faint")], 20.0
    for shape, indent, words in marks:
        parts += [shape.format(x=x, c=color(0)), text(x + indent, 68, words, "faint")]
        x += indent + len(words) * _LETTER + 22
    return parts
