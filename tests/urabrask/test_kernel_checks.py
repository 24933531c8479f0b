"""A kernel is asked everything, alone, and what was not measured does not pass."""

from __future__ import annotations

import time
from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from esper.leyline import ManualClock
from esper.urabrask import KernelLimits, KernelMeasures, check_kernel, measured_kernel, size_of
from tests.tezzeret.makers import MAKERS

LIMITS = KernelLimits(size_bytes=10_000, seconds=5.0)
GOOD = KernelMeasures(100, 0, 0, 0, 0, 0, 0, 0, 0.25, 0.5)


def measured(name: str) -> KernelMeasures:
    torch.manual_seed(0)
    like = torch.randn(8, 6)
    return measured_kernel(MAKERS[name](like), MAKERS[name](like), like, time.perf_counter)


def failures(known: KernelMeasures) -> list[str]:
    return [check.name for check in check_kernel(known, LIMITS) if not check.passed]


def test_a_sound_kernel_passes_with_its_numbers() -> None:
    known = measured("sound")
    assert failures(known) == []
    assert known.size_bytes == size_of(MAKERS["sound"](torch.zeros(8, 6)))
    assert known.seconds is not None
    assert known.seconds > 0


@pytest.mark.parametrize(
    ("name", "failed"),
    [
        ("shrinking", "shape"),
        ("doubling", "identity"),
        ("undefined", "output"),
        ("steep", "gradients"),
        ("writing", "input"),
        ("keeping", "leak"),
        ("borrowing", "ownership"),
    ],
)
def test_every_fault_is_named_with_its_number(name: str, failed: str) -> None:
    check = next(check for check in check_kernel(measured(name), LIMITS) if check.name == failed)
    assert not check.passed
    assert check.value is not None
    assert check.value > 0
    assert check.text


@pytest.mark.parametrize("field", [field.name for field in fields(KernelMeasures)])
def test_what_was_not_measured_does_not_pass(field: str) -> None:
    assert failures(GOOD) == []
    assert len(failures(replace(GOOD, **{field: None}))) == 1
    unmeasured = [check.text for check in check_kernel(KernelMeasures(), LIMITS)]
    assert all(text.endswith("was not measured") for text in unmeasured)


def test_size_and_time_have_limits_that_count() -> None:
    assert failures(replace(GOOD, size_bytes=10_000, forward_seconds=4.5)) == []
    assert failures(replace(GOOD, size_bytes=10_001)) == ["size"]
    assert failures(replace(GOOD, forward_seconds=4.6)) == ["latency"]


def test_a_kernel_without_gradients_was_not_measured() -> None:
    known = measured_kernel(nn.Identity(), nn.Identity(), torch.randn(4, 6), ManualClock())
    assert known.bad_gradients is None
    assert "gradients" in failures(known)
