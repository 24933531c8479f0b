"""Reading beside a writer that is faster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from esper.checkpoint.catalog import CheckpointCatalog
from esper.checkpoint.store import CheckpointStore
from tests.checkpoint.runs import RING, content, holds, open_store


class Overtaken(CheckpointCatalog):
    """Between its first look at the directory and the reading of what it saw, a writer saves again."""

    def __init__(self, store: CheckpointStore, run_dir: Path) -> None:
        super().__init__(run_dir, RING)
        self.store = store
        self.saved = 1

    def newest_first(self) -> Iterator[Path]:
        paths = list(super().newest_first())
        if self.saved < 4:
            self.saved += 1
            self.store.save(self.saved, 0, content(self.saved))
        return iter(paths)


def test_a_reader_whose_checkpoint_goes_before_it_is_read_finds_its_successor(tmp_path: Path) -> None:
    with open_store(tmp_path / "run", keep_last=1) as store:
        store.save(1, 0, content(1))
        found = Overtaken(store, tmp_path / "run").search()
        assert found.found is not None
        assert holds(found.found, 4)
        assert found.rejected == ()
