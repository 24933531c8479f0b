"""What crosses a process boundary comes out as it went in, or is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import ConfigError
from esper.leyline import from_plain, to_plain
from tests.workers.tasks import Shard

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.builds(Path, st.text("abc/", min_size=1))
    | st.builds(Shard, st.just(Path("f")), st.tuples(st.text()))
)
KEYS = st.text().filter(lambda key: key != "!")
VALUES = st.recursive(
    LEAVES, lambda v: st.lists(v) | st.tuples(v, v) | st.dictionaries(KEYS, v), max_leaves=20
)


@given(VALUES)
def test_values_come_out_as_they_went_in(value: object) -> None:
    assert from_plain(json.loads(json.dumps(to_plain(value)))) == value


@pytest.mark.parametrize("value", [torch.ones(1), {1: 2}, {"!": 1}, object(), {1, 2}, Shard])
def test_everything_else_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        to_plain([value])


def test_a_dataclass_that_cannot_be_imported_is_refused() -> None:
    @dataclass
    class Inner:
        x: int

    with pytest.raises(ConfigError, match="Inner"):
        to_plain(Inner(1))


def test_a_message_cannot_make_an_object_that_is_no_dataclass() -> None:
    with pytest.raises(ConfigError, match="subprocess:Popen"):
        from_plain({"!": "dataclass", "class": "subprocess:Popen", "fields": {"args": ["true"]}})
