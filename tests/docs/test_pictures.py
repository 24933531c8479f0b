"""Pages about concepts show a picture near their top, which is told in words, too, and stands alone."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.docs.pages import DOCUMENTS, ROOT, named

CONCEPTS = ["anatomy", "importance", "elesh", "emrakul", "kasmina", "growing", "checkpoint", "session"]
PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)#?\s]+)\)")
SVG = "{http://www.w3.org/2000/svg}"


def shown(page: Path) -> list[tuple[str, Path]]:
    """The pictures of a page: what is said instead of each, and its file."""
    found = SHOWN.findall(page.read_text("utf-8"))
    return [(text, (page.parent / target).resolve()) for text, target in found if "://" not in target]


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_concept_has_a_picture_near_its_top(concept: str) -> None:
    top = (ROOT / "docs" / f"{concept}.md").read_text("utf-8").splitlines()[:30]
    found = re.search(r"!\[[^\]]{40,}\]\((pictures/\w+\.svg)\)", "\n".join(top))
    assert found is not None
    assert "prefers-color-scheme: dark" in (ROOT / "docs" / found[1]).read_text("utf-8")


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_every_picture_is_there_and_is_told_in_words(page: Path) -> None:
    for text, file in shown(page):
        assert file.is_file(), f"{file} is not there"
        assert text.strip(), f"{file.name} has no words for those who do not see it"


def test_every_picture_is_shown() -> None:
    used = {file for page in DOCUMENTS for _, file in shown(page)}
    assert [file.name for file in PICTURES if file not in used] == []


@pytest.mark.parametrize("file", PICTURES, ids=lambda file: file.name)
def test_a_picture_stands_alone(file: Path) -> None:
    text = file.read_text("utf-8")
    root = ET.fromstring(text)
    assert root.get("role") == "img"
    assert all((root.findtext(SVG + name) or "").strip() for name in ("title", "desc"))
    assert "://" not in text.replace(SVG[1:-1], ""), "fetches from elsewhere"
    left, top, width, height = map(float, (root.get("viewBox") or "").split())
    assert (left, top) == (0, 0)
    places = [(float(e.get("x", 0)), float(e.get("y", 0))) for e in root.iter(SVG + "text")]
    assert all(0 < x < width and 0 < y < height for x, y in places), "words outside of the picture"
