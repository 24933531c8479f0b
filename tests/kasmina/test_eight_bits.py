"""A weight in eight bits is a weight wherever it is computed with, and nothing moves it by the way."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper.elesh import PeakMemory
from esper.errors import LifecycleError
from esper.kasmina.eight_bits import EightBits, is_smaller


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 100), (7, 4, 3, 3), (6, 2, 8, 8), (3, 16, 80)])
def test_every_number_is_kept_within_half_a_step_of_its_row(shape: tuple[int, ...]) -> None:
    whole = weight(*shape)
    whole[0] *= 1e-3  # one row has another scale than its neighbors
    eight = EightBits.of(whole, torch.float32)
    assert ((eight - whole).abs() <= 0.505 * eight.scales.float()).all()
    assert eight.scales.numel() >= shape[0]
    assert is_smaller(whole)
    assert eight.nbytes == eight.codes.nbytes + eight.scales.nbytes < 0.29 * whole.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_rounded_once_rounds_to_itself(dtype: torch.dtype) -> None:
    once = EightBits.of(weight(200, 70), dtype).whole()
    again = EightBits.of(once, dtype)
    assert once.dtype == again.dtype == dtype
    assert torch.equal(again.whole(), once)


def test_rows_of_zeros_stay_so_and_what_is_no_number_is_seen() -> None:
    whole = weight(3, 10)
    whole[0], whole[1, 4] = 0.0, torch.nan
    eight = EightBits.of(whole, torch.float32).whole()
    assert not eight[0].any()
    assert eight[1].isnan().all()
    assert eight[2].isfinite().all()


def test_it_is_a_parameter_that_can_be_copied_and_computed_with() -> None:
    eight = EightBits.of(weight(8, 10), torch.float32)
    parameter = nn.Parameter(eight, requires_grad=False)
    other = copy.deepcopy(parameter)
    assert isinstance(other, EightBits)
    assert other.codes.data_ptr() != eight.codes.data_ptr()
    x = weight(4, 10, seed=1)
    assert torch.equal(F.linear(x, other), F.linear(x, eight.whole()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.linear(x, other), F.linear(x, eight.whole()))
    assert torch.equal(parameter[3:5, 2], eight.whole()[3:5, 2])
    assert type(parameter.int()) is Tensor


def test_large_products_and_tables_are_made_part_by_part() -> None:
    table = EightBits.of(weight(200, 1).expand(200, 100_000), torch.float32)  # 80 MB when it is whole
    x, bias, numbers = weight(3, 2, 200, seed=1), weight(100_000, seed=2), torch.tensor([[5, 99], [0, 5]])
    peak = PeakMemory()
    rest = peak.read()
    answers = [F.linear(x, table.t(), bias), F.linear(weight(2, 100_000), table), F.embedding(numbers, table)]
    assert peak.read() - rest < 50e6
    whole = table.whole()
    expected = [F.linear(x, whole.t(), bias), F.linear(weight(2, 100_000), whole), whole[numbers]]
    for answer, right in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer, right, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (10,), (1, 10), (4, 1), (4, 10)])
def test_whatever_can_be_added_to_a_product_is(shape: tuple[int, ...]) -> None:
    eight, x, added = EightBits.of(weight(8, 10), torch.float32), weight(4, 8), torch.full(shape, 3.0)
    torch.testing.assert_close(torch.addmm(added, x, eight), x @ eight.whole() + added)


def test_it_takes_other_values_as_a_whole_only() -> None:
    eight, before = EightBits.of(weight(8, 10), torch.float32), weight(8, 10)
    eight.copy_(weight(8, 10, seed=1))
    assert torch.equal(eight.whole(), EightBits.of(weight(8, 10, seed=1), torch.float32).whole())
    held, version = eight.whole(), eight._version
    for change in (eight.zero_, lambda: torch.mul(before, 2, out=eight)):
        with pytest.raises(LifecycleError, match="as a whole only"):
            change()
    assert torch.equal(eight.whole(), held)
    eight[0] = 0.0  # goes into a view, which a teacher notices by the count
    assert torch.equal(eight.whole(), held)
    assert eight._version > version
