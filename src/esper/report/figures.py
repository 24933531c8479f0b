"""How numbers are written for people: short, with their unit, and "not measured" where there is none."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper.report.report import Latency, RunReport

NOT_MEASURED = "not measured"
MINUS = "\N{MINUS SIGN}"
_NO_TEXT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTE_PREFIXES = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def plain(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits: `0.0123`, `1.2e-08`."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    return f"{value:.{digits}g}".replace("-", MINUS, 1) if value < 0 else f"{value:.{digits}g}"


def count(value: float | None) -> str:
    """A large number with its prefix: `12.4 M`."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    for size, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)} {prefix}"
    return f"{value:.0f}"


def size(num_bytes: float | None) -> str:
    """A size in memory or on disk: `1.2 MiB`."""
    if num_bytes is None:
        return NOT_MEASURED
    for unit, name in _BYTE_PREFIXES:
        if num_bytes >= 0.9995 * unit:
            return f"{_three_digits(num_bytes / unit)} {name}"
    return f"{num_bytes:.0f} B"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as per cent: `97.3 %`."""
    if fraction is None or math.isnan(fraction):
        return NOT_MEASURED
    return signed(f"{fraction * 100:.{digits}f} %")


def change(before: float | None, after: float | None) -> str:
    """The relative change: `−52 %`."""
    if before is None or after is None or before == 0:
        return NOT_MEASURED
    fraction = (after - before) / before
    digits = 0 if abs(fraction) >= 0.1 else 1
    return signed(f"{fraction * 100:+.{digits}f} %") if round(fraction, 4) else "no change"


def milliseconds(value: float | None) -> str:
    """A time in milliseconds: `3.1 ms`."""
    return NOT_MEASURED if value is None or math.isnan(value) else f"{_three_digits(value)} ms"


def speedup(ratio: float | None) -> str:
    """How much faster something became: `1.9x faster`."""
    if ratio is None or math.isnan(ratio):
        return NOT_MEASURED
    return f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"


def faster(latency: Latency | None) -> str:
    """The same of two networks that were timed, and whether that can be told from the noise."""
    if latency is None:
        return NOT_MEASURED
    return speedup(latency.speedup) + (", within the noise" if latency.is_noise else "")


def seconds(value: float | None) -> str:
    """A duration: `12.3 s`, `4 min 5 s`."""
    if value is None or math.isnan(value):
        return NOT_MEASURED
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def things(number: int, word: str) -> str:
    """So many of something: `1 epoch`, `12 epochs`."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def printable(text: str) -> str:
    """The same text with a sign in the place of what no page or picture may hold: controls, broken names."""
    return _NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)


def signed(text: str) -> str:
    """The same text with a typographic minus."""
    return text.replace("-", MINUS)


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


class MetricScale:
    """Writes the deciding metric: as per cent if all its values lie in 0..1 and higher is better."""

    def __init__(self, values: list[float], higher_is_better: bool) -> None:
        finite = [value for value in values if math.isfinite(value)]
        self.is_fraction = higher_is_better and bool(finite) and all(0.0 <= value <= 1.0 for value in finite)

    @classmethod
    def of(cls, report: RunReport) -> MetricScale:
        """The scale on which all values of a report's deciding metric can be written."""
        known = [value for value in (report.quality_before, report.quality_after) if value is not None]
        return cls([*report.values.values(), *report.twin_values.values(), *known], report.higher_is_better)

    def text(self, value: float | None) -> str:
        return percent(value, 2) if self.is_fraction else plain(value, 4)

    def tick(self, value: float) -> str:
        return signed(f"{value * 100:g} %" if self.is_fraction else f"{value:g}")

    def difference(self, value: float | None) -> str:
        """A difference of two values of the metric: `−0.21 points`."""
        if value is None or math.isnan(value):
            return NOT_MEASURED
        if value == 0:
            return "0"
        return signed(f"{value * 100:+.2f} points" if self.is_fraction else f"{value:+.4g}")
