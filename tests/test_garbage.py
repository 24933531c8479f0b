"""Stretches without garbage collections."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper.garbage import imported, uncollected


@pytest.fixture(params=[True, False])
def is_collecting(request: pytest.FixtureRequest) -> Iterator[bool]:
    was_enabled = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield bool(request.param)
    (gc.enable if was_enabled else gc.disable)()


def test_collections_are_off_inside_and_afterwards_as_before(is_collecting: bool) -> None:
    with uncollected():
        with uncollected():
            pass
        assert not gc.isenabled()
    assert gc.isenabled() is is_collecting


def test_collections_are_on_again_after_a_failure() -> None:
    with pytest.raises(ImportError):
        imported("esper.nothing_of_that_name")
    assert gc.isenabled()


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that nobody has imported."""
    (tmp_path / "nobody_has_imported_it.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield "nobody_has_imported_it"
    sys.modules.pop("nobody_has_imported_it", None)


def test_what_an_import_makes_counts_as_old(is_collecting: bool, fresh: str) -> None:
    gc.unfreeze()  # what was frozen before this file
    young: list[object] = [object.__new__(type("Thing", (), {})) for _ in range(10)]
    module = imported(fresh)
    assert module is sys.modules[fresh]
    assert gc.get_freeze_count() == 0
    old = {id(thing) for thing in gc.get_objects(generation=2)}
    assert old.issuperset(map(id, young))
    assert gc.isenabled() is is_collecting


def test_what_was_imported_before_costs_nothing_and_ages_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted() -> int:
        raise AssertionError("what is frozen was counted, which is a walk through all of it")

    monkeypatch.setattr(gc, "get_freeze_count", counted)
    assert imported("string") is sys.modules["string"]


def test_what_somebody_has_frozen_stays_so(fresh: str) -> None:
    gc.freeze()
    try:
        imported(fresh)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
