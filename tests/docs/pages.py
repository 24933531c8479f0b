"""The Markdown documents as what they hold: blocks of Python that run in order, and the lines of a shell."""

from __future__ import annotations

import runpy
from contextlib import ExitStack
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from unittest import SkipTest

from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from tests.docs import material

ROOT = Path(__file__).parents[2]
PREAMBLES = Path(__file__).parent / "preambles"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def named(path: Path) -> str:
    """A document as people name it."""
    return str(path.relative_to(ROOT))


def page(path: Path) -> Document:
    """A document with its blocks of Python, and with the marks of those that are not run."""
    return Document.parse(str(path), PythonCodeBlockParser(), SkipParser())


def preamble(path: Path) -> Path:
    """Where what a page takes for granted is made; the file need not be there."""
    return PREAMBLES / f"{path.stem.lower().replace('-', '_')}.py"


def run_page(path: Path, cleanup: ExitStack) -> list[str]:
    """Runs the blocks of a document in their order, in one namespace: what `material` and its preamble make.

    Args:
        path: of the document.
        cleanup: of what a preamble opens; there it stands by this name.

    Returns:
        The reasons why blocks were left out, one for each.
    """
    document, reasons = page(path), list[str]()
    made = vars(material)
    if preamble(path).exists():
        made = made | runpy.run_path(str(preamble(path)), {"cleanup": cleanup}, "preamble")
    document.namespace |= {name: value for name, value in made.items() if _is_the_readers(value)}
    document.namespace["__name__"] = "__main__"
    for example in document.examples():
        try:
            example.evaluate()
        except SkipTest as skipped:
            reasons.append(str(skipped))
    return reasons


def _is_the_readers(value: object) -> bool:
    """Whether a reader has it already. What belongs to a library, a block must import before it uses it."""
    if isinstance(value, ModuleType):
        return False
    is_definition = isinstance(value, type | FunctionType | BuiltinFunctionType)
    return not is_definition or value.__module__.partition(".")[0] in ("preamble", "tests")
