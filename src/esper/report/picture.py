"""The picture of a run: its curve and what became of it as one SVG file, for a README, a talk or a paper."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from esper.report.charts import quality_chart
from esper.report.figures import MetricScale, change, faster, printable
from esper.report.plot import text
from esper.report.report import RunReport
from esper.report.thinning import thinned

_FONT = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, DejaVu Sans, sans-serif"
_WIDTH, _EDGE, _HEAD = 1000, 20, 70


def chart_style() -> str:
    """Colors, light and dark, and the style of everything that is drawn."""
    return files("esper.report").joinpath("chart.css").read_text(encoding="utf-8")


def render_svg(report: RunReport) -> str:
    """The picture as text, light or dark as who looks at it wants; of a run of no epochs only its heading."""
    chart = quality_chart(thinned(report)) if report.epochs else ""
    height = float(chart.split('"', 2)[1].split()[-1]) if chart else 0.0  # the last number of its viewBox
    whole, told = _HEAD + height + _EDGE, escape(_what_became(report))
    return printable(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {whole:.0f}" width="{_WIDTH}" '
        f'height="{whole:.0f}" font-family="{_FONT}" font-size="12.5" role="img">\n'
        f"<title>{escape(report.title)}</title>\n<desc>{told}</desc>\n<style>\n{chart_style()}</style>\n"
        f'<rect x=".5" y=".5" width="{_WIDTH - 1}" height="{whole - 1:.0f}" rx="12" class="paper"/>\n'
        f"{text(_EDGE, 32, report.title, 'strong heading')}{text(_EDGE, 53, _what_became(report), 'label')}\n"
        f'<svg x="{_EDGE}" y="{_HEAD}" width="{_WIDTH - 2 * _EDGE}" height="{height:.0f}">{chart}</svg>\n'
        "</svg>\n"
    )


def _what_became(report: RunReport) -> str:
    """What the run did to the network, in figures."""
    scale, twin = MetricScale.of(report), report.twin_values
    figures = [
        f"FLOPs {change(report.flops_before, report.flops_after)}",
        f"parameters {change(report.parameters_before, report.parameters_after)}",
        *([faster(report.latency)] if report.latency else ()),
        f"{report.metric} {scale.text(report.quality_after)}",
        *([f"uncut twin {scale.text(twin[max(twin)])}"] if twin else ()),
    ]
    return " \N{MIDDLE DOT} ".join(figures)
