from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import ReplayError
from esper.leyline.wire.envelope import NonceCache


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 40)), max_size=60))
def test_no_nonce_is_used_twice_within_its_time(uses: list[tuple[int, float]]) -> None:
    cache, now, used = NonceCache(100.0, 1000), 0.0, dict[bytes, float]()
    for number, seconds in uses:
        now += seconds
        nonce = bytes([number])
        try:
            cache.add(nonce, now)
        except ReplayError:
            assert now - used[nonce] < 300.0
        else:
            assert now - used.get(nonce, -1e9) >= 100.0
            used[nonce] = now


def test_a_full_cache_refuses_what_is_new_and_makes_room_in_time() -> None:
    cache = NonceCache(100.0, 3)
    for number in range(3):
        cache.add(bytes([number]), 0.0)
    with pytest.raises(ReplayError, match="3 nonces are remembered"):
        cache.add(b"new", 150.0)
    cache.add(b"new", 250.0)
