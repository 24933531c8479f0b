"""Every block of Python in the documents runs, in the order of its page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from esper.elesh import PRELOAD
from esper.workers import LocalPool
from tests.docs.pages import DOCUMENTS, PREAMBLES, named, page, preamble, run_page

PAGES = [path for path in DOCUMENTS if any(page(path).examples())]


@pytest.fixture(scope="module")
def imports() -> Iterator[None]:
    """What worker processes import, imported once for all pages whose blocks start some."""
    pool = LocalPool(1, PRELOAD)
    yield
    pool.close()


@pytest.mark.filterwarnings("default")  # a reader's process does not make errors of them
@pytest.mark.parametrize("path", PAGES, ids=named)
def test_the_blocks_of_a_page_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    with ExitStack() as cleanup:
        reasons = run_page(path, cleanup)
    assert all(len(reason) > 20 for reason in reasons), "say why it cannot be run"


def test_every_preamble_belongs_to_a_page() -> None:
    known = {preamble(path) for path in PAGES} | {PREAMBLES / "__init__.py"}
    assert set(PREAMBLES.glob("*.py")) <= known


def test_hardly_a_block_is_left_out() -> None:
    marks = [path for path in PAGES for _ in path.read_text().split("<!-- skip: ")[1:]]
    assert len(marks) == 0, "turn it into one that a reader can paste, or argue for one more"
