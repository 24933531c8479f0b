from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import ContractError
from esper.leyline.ids import IdempotencyKey, content_id, stable_id
from esper.leyline.words import Level

WORDS = st.text(alphabet=st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1)
KEYS = st.builds(IdempotencyKey, st.integers(0, 10**6), WORDS, WORDS, st.sampled_from(Level))


def test_an_id_is_sixteen_hex_characters_of_sha256() -> None:
    expected = hashlib.sha256(b"12:layer1.conv1").hexdigest()[:16]
    assert stable_id("layer1.conv1") == expected == "c3203114ab3a08fc"


def test_an_id_is_the_same_in_another_process() -> None:
    code = "from esper.leyline import stable_id; print(stable_id('layer1.conv1', 'weight'))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == stable_id("layer1.conv1", "weight")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=4))
def test_where_the_parts_are_split_matters(parts: list[str]) -> None:
    joined = ["".join(parts[:2]), *parts[2:]]
    assert stable_id(*parts) != stable_id(*joined)


def test_the_order_of_keys_does_not_matter_to_a_content_id() -> None:
    assert content_id({"a": 1, "b": [2.5, None]}) == content_id({"b": [2.5, None], "a": 1})
    assert content_id({"a": 1}) != content_id({"a": 2})


@pytest.mark.parametrize("content", [float("nan"), {"x": float("inf")}, {"x": object()}])
def test_content_that_json_cannot_say_has_no_id(content: object) -> None:
    with pytest.raises(ContractError, match="JSON"):
        content_id(content)


@given(KEYS)
def test_a_key_survives_being_written_and_read(key: IdempotencyKey) -> None:
    assert IdempotencyKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1:a:b",
        "1:a:b:channel:x",
        "x:a:b:channel",
        "1::b:channel",
        "1:a:b:neuron",
        "01:a:b:channel",
        "-1:a:b:head",
    ],
)
def test_what_is_not_a_key_is_refused(text: str) -> None:
    with pytest.raises(ContractError):
        IdempotencyKey.parse(text)
