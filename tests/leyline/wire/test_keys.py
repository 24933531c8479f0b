from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from esper.leyline.wire.keys import BelievedKeys, hkdf, mac_with

KEYS = BelievedKeys("a", {"a": b"a" * 32, "b": b"b" * 32})


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=300))
def test_the_prepared_mac_is_hmac_sha256(key: bytes, body: bytes) -> None:
    assert mac_with(key)(body) == hmac.digest(key, body, "sha256")


def test_derivation_is_hkdf_of_rfc_5869() -> None:
    """Test cases 1 and 3 of its appendix, the first 32 bytes."""
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    assert (
        hkdf(secret, salt, info).hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    )
    assert hkdf(secret, b"", b"").hex() == "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"


def test_every_name_and_the_boot_make_another_key() -> None:
    places = [
        ("a", b"1", "me", "you"),
        ("b", b"1", "me", "you"),
        ("a", b"2", "me", "you"),
        ("a", b"1", "you", "me"),
        ("a", b"1", "mey", "ou"),
    ]
    macs = [mac(b"body") for place in places if (mac := KEYS.mac_for(*place)) is not None]
    assert len(set(macs)) == len(places)


def test_a_key_that_is_not_believed_makes_none_and_secrets_are_not_shown() -> None:
    assert KEYS.mac_for("c", b"1", "me", "you") is None
    assert "aaaa" not in repr(KEYS)
