"""Pieces that the sections of a report are made of."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from esper.report.figures import NOT_MEASURED
from esper.report.report import NOT_APPLIED

_TONES = {
    "go": "good",
    "accepted": "good",
    "conditional": "warn",
    "no_go": "bad",
    "rejected": "bad",
    "rollback": "bad",
    "ok": "good",
    "failing": "bad",
    "kept": "good",
    "broken": "bad",
}


def block(title: str, body: str, lead: str = "") -> str:
    """A card with a heading; the lead is HTML."""
    intro = f"<p>{lead}</p>" if lead else ""
    return f"<section><h2>{escape(title)}</h2>{intro}{body}</section>"


def beside(*sections: str) -> str:
    """Those that there are, side by side."""
    present = [section for section in sections if section]
    return f'<div class="row">{"".join(present)}</div>' if present else ""


def pill(verdict: str) -> str:
    """A verdict, in its color."""
    words = verdict.strip().lower().replace("-", "_")
    tone = next((tone for word, tone in _TONES.items() if words.startswith(word)), "")
    if verdict.endswith(NOT_APPLIED):
        tone = "warn"
    return f'<span class="pill {tone}">{escape(verdict.replace("_", "-"))}</span>'


def measured(text: str) -> str:
    """A number, or faintly that there is none."""
    return f'<span class="none">{text}</span>' if text == NOT_MEASURED else text


def fact_list(rows: Iterable[tuple[str, str]]) -> str:
    """Names and what is known of them."""
    return (
        "<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd>{measured(escape(value))}</dd>" for name, value in rows)
        + "</dl>"
    )
