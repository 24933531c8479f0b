"""A worker makes a kernel; a blueprint that hangs, dies or takes too much costs that worker, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from esper.tezzeret.shelf import Kernel
from esper.tezzeret.smith import PRELOAD, NoKernel
from esper.workers import LocalPool
from tests.tezzeret.shelves import order, smith


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    pool = LocalPool(1, PRELOAD)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def test_a_worker_makes_what_this_process_would_have_made(run: Path, pool: LocalPool, tmp_path: Path) -> None:
    wanted = order("sound", width=3)
    before = torch.get_rng_state()
    there, here = smith(run, pool).fetch(wanted), smith(tmp_path).fetch(wanted)
    assert isinstance(there.kernel, Kernel)
    assert isinstance(here.kernel, Kernel)
    assert torch.equal(before, torch.get_rng_state())
    assert there.is_made
    assert all(torch.equal(here.kernel.tensors[name], t) for name, t in there.kernel.tensors.items())
    again = smith(run, pool).fetch(wanted)
    assert isinstance(again.kernel, Kernel)
    assert not again.is_made


@pytest.mark.parametrize(
    ("name", "said", "is_fault"),
    [
        ("hanging", "stopped at its deadline of 1 s", True),
        ("dying", "the worker that made it died", True),
        ("hungry", "takes more than the 268 MB", True),
        ("failing", "no way for", False),
    ],
)
def test_what_goes_wrong_in_a_worker_is_a_value(
    run: Path, pool: LocalPool, name: str, said: str, is_fault: bool
) -> None:
    seconds = 1.0 if name == "hanging" else 60.0
    fetched = smith(run, pool, deadline_seconds=seconds, memory_bytes=1 << 28).fetch(order(name))
    assert isinstance(fetched.kernel, NoKernel)
    assert said in fetched.kernel.why
    assert fetched.kernel.is_fault == is_fault
    assert not [path for path in (run / "kernels").iterdir() if path.name.startswith(".tmp-")]


@pytest.mark.parametrize(
    ("name", "failed"), [("shrinking", "shape"), ("undefined", "output"), ("borrowing", "ownership")]
)
def test_what_does_not_pass_is_not_stored(tmp_path: Path, name: str, failed: str) -> None:
    fetched = smith(tmp_path).fetch(order(name))
    assert isinstance(fetched.kernel, NoKernel)
    assert failed in {check.name for check in fetched.kernel.failed}
    assert all(check.value is not None for check in fetched.kernel.failed)
    assert not fetched.kernel.is_fault
    assert list((tmp_path / "kernels").iterdir()) == []


def test_a_seed_over_its_budget_is_refused_before_its_memory_is_asked_for(tmp_path: Path) -> None:
    fetched = smith(tmp_path).fetch(order("huge"))
    assert isinstance(fetched.kernel, NoKernel)
    (size,) = fetched.kernel.failed
    assert (size.name, size.value) == ("size", 4 * 7 * 2**40)


def test_a_run_directory_that_cannot_be_written_is_a_value(tmp_path: Path) -> None:
    made = smith(tmp_path)
    (tmp_path / "kernels").write_text("in the way")
    fetched = made.fetch(order("sound"))
    assert isinstance(fetched.kernel, NoKernel)
    assert "could not be stored" in fetched.kernel.why
