from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import ContractError
from esper.leyline.wire import messages
from esper.narset.summary import summed
from esper.narset.wire import message_of, summaries_of


@given(st.dictionaries(st.text(max_size=5), st.lists(st.floats(), max_size=40), max_size=3))
def test_a_summary_comes_back_as_it_was(values: dict[str, list[float]]) -> None:
    summaries = {name: summed(numbers) for name, numbers in values.items()}
    raw = message_of("rank-3", summaries, 7).SerializeToString()
    assert summaries_of(raw) == ("rank-3", summaries, 7)


def test_a_summary_without_buckets_has_sums_and_no_quantiles() -> None:
    old = messages.RegionSummary(version=1, region="r")
    old.metrics["x"].CopyFrom(messages.MetricSummary(count=2, sum=3.0, sum_of_squares=5.0, min=1.0, max=2.0))
    summary = summaries_of(old.SerializeToString())[1]["x"]
    assert (summary.mean, summary.quantile(0.5)) == (1.5, None)


def test_a_summary_that_contradicts_itself_is_refused_by_name() -> None:
    message = message_of("r", {"x": summed([1.0, 2.0])}, 0)
    message.metrics["x"].count = 3
    with pytest.raises(ContractError, match="'x' counts 3 values, and its buckets hold 2"):
        summaries_of(message.SerializeToString())
    with pytest.raises(ContractError, match="3 bytes are no RegionSummary"):
        summaries_of(b"\xff\xff\xff")
