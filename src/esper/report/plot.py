"""Axes, grids, lines and labels of a chart as inline SVG; colors come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

LABEL_HEIGHT = 15.0


@dataclass(frozen=True)
class Axis:
    """Maps values from `low`..`high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, ticks: int) -> Axis:
        """An axis that holds all finite values and begins and ends at a tick."""
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        if low == high:
            low, high = low - (abs(low) or 1.0) * 0.05, high + (abs(high) or 1.0) * 0.05
        step = nice_step(high - low, ticks)
        return cls(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step, start, end)

    def ticks(self, number: int) -> list[float]:
        """Round values along the axis, about so many."""
        step = nice_step(self.high - self.low, number)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def nice_step(span: float, number: int) -> float:
    """The step out of 1, 2, 5 times a power of ten that divides a span into at most `number` parts."""
    rough = span / number
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


@dataclass(frozen=True)
class EndLabel:
    """A label at the right end of a line: the value it stands at, its lines of text, the line's style."""

    value: float
    text: tuple[str, ...]
    style: str


@dataclass(frozen=True)
class Plot:
    """A drawing area over epochs: `x` places an epoch; labels stand outside of `left` and `right`."""

    width: int
    left: float
    right: float
    x: Axis

    @classmethod
    def over(cls, epochs: Iterable[int], width: int, left: float, margin: float) -> Plot:
        """A plot `width` wide over all these epochs, with `margin` on the right for labels."""
        known = list(epochs)
        low, high = min(known), max(known)
        one = low == high
        return cls(width, left, width - margin, Axis(low - one, high + one, left + 14, width - margin - 14))

    def svg(self, height: float, parts: Iterable[str], title: str) -> str:
        box = f'viewBox="0 0 {self.width} {height:.0f}" role="img" aria-label="{escape(title)}"'
        return f"<svg {box}>{''.join(parts)}</svg>"

    def grid(self, y: Axis, ticks: Iterable[tuple[float, str]]) -> list[str]:
        """A hairline and a label for each tick."""
        return [
            self.across(y(value), "grid") + text(self.left - 10, y(value) + 4, label, "tick end")
            for value, label in ticks
        ]

    def across(self, y: float, style: str) -> str:
        return f'<line x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}" class="{style}"/>'

    def epoch_labels(self, y: float, number: int, unit: str) -> list[str]:
        ticks = [tick for tick in self.x.ticks(number) if tick == int(tick)]
        return [
            *(text(self.x(tick), y, f"{tick:.0f}", "tick middle") for tick in ticks),
            text(self.right + 10, y, unit, "tick"),
        ]

    def line(self, values: Mapping[int, float], y: Axis, style: str, stepped: bool = False) -> str:
        """One path; an epoch whose value is not finite leaves a gap."""
        path, joined = "", False
        for epoch, value in sorted(values.items()):
            if math.isfinite(value):
                across = f"H{self.x(epoch):.1f}" if joined and stepped else ""
                path += f"{across}{'L' if joined else 'M'}{self.x(epoch):.1f} {y(value):.1f}"
            joined = math.isfinite(value)
        return f'<path d="{path}" class="line {style}"/>' if path else ""

    def dots(self, values: Mapping[int, float], y: Axis, style: str) -> list[str]:
        return [
            f'<circle cx="{self.x(epoch):.1f}" cy="{y(value):.1f}" r="3" class="dot {style}"/>'
            for epoch, value in values.items()
            if math.isfinite(value)
        ]

    def bars(self, values: Mapping[int, float], y: Axis) -> list[str]:
        """Bars from zero, `better` above and `worse` below, and the zero line."""
        width = max(3.0, min(22.0, 0.6 * (self.x.end - self.x.start) / max(len(values), 1)))
        finite = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
        rectangles = [
            f'<rect x="{self.x(epoch) - width / 2:.1f}" width="{width:.1f}" y="{y(max(value, 0.0)):.1f}" '
            f'height="{max(abs(y(value) - y(0.0)), 0.8):.1f}" rx="1.5" '
            f'class="bar {"worse" if value < 0 else "better"}"/>'
            for epoch, value in finite.items()
        ]
        return [*rectangles, self.across(y(0.0), "zero")]

    def end_labels(self, labels: Sequence[EndLabel], y: Axis) -> list[str]:
        """Labels beside the ends of lines, pushed apart so that none covers another."""
        ordered = sorted(labels, key=lambda label: y(label.value))
        places = [y(label.value) - LABEL_HEIGHT * len(label.text) / 2 for label in ordered]
        for _ in ordered:  # what is pushed may meet the next one
            for (above, below), label in zip(pairwise(range(len(places))), ordered, strict=False):
                missing = places[above] + LABEL_HEIGHT * len(label.text) + 5 - places[below]
                if missing > 0:
                    places[above] -= missing / 2
                    places[below] += missing / 2
        lift = min(places[0], 0.0) if places else 0.0  # none above the top edge
        places = [place - lift for place in places]
        parts = []
        for label, place in zip(ordered, places, strict=True):
            parts.append(f'<circle cx="{self.right + 13}" cy="{place + 8:.1f}" r="4" class="{label.style}"/>')
            for number, words in enumerate(label.text):
                style = "label" if number else "label strong"
                parts.append(text(self.right + 22, place + 12 + LABEL_HEIGHT * number, words, style))
        return parts

    def tooltips(self, texts: Mapping[int, str], top: float, bottom: float) -> list[str]:
        """Invisible columns, one for each epoch, that light up under the pointer and carry a tooltip."""
        half = (self.x.end - self.x.start) / (self.x.high - self.x.low) / 2
        parts = []
        for epoch, words in texts.items():
            start, end = max(self.x(epoch) - half, self.left), min(self.x(epoch) + half, self.right)
            parts.append(
                f'<rect x="{start:.1f}" width="{end - start:.1f}" y="{top}" height="{bottom - top:.1f}" '
                f'class="hover"><title>{escape(words)}</title></rect>'
            )
        return parts


def text(x: float, y: float, words: str, style: str) -> str:
    """One line of text with its baseline at `y`."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(words)}</text>'
