"""Keys and seals."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.checkpoint.crypto import Key, KeyRing, KeyState, UnknownKey, sealed_by
from esper.errors import CheckpointCorrupt, ConfigError
from tests.checkpoint.runs import OTHER_RING, RING


@given(st.binary(max_size=200))
def test_what_was_sealed_comes_back(body: bytes) -> None:
    assert RING.unseal("manifest", RING.seal("manifest", body)) == body


@given(st.binary(max_size=60), st.data())
def test_any_flipped_bit_breaks_the_seal(body: bytes, data: st.DataObject) -> None:
    sealed = bytearray(RING.seal("manifest", body))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(CheckpointCorrupt):
        RING.unseal("manifest", bytes(sealed))


@given(st.binary(max_size=100), st.integers(0, 300))
def test_a_seal_that_is_cut_short_is_refused(body: bytes, length: int) -> None:
    sealed = RING.seal("manifest", body)
    if length < len(sealed):
        with pytest.raises(CheckpointCorrupt):
            RING.unseal("manifest", sealed[:length])


def test_a_seal_for_one_purpose_does_not_pass_for_another() -> None:
    with pytest.raises(CheckpointCorrupt, match="bytes were altered"):
        RING.unseal("mask", RING.seal("manifest", b"body"))


def test_a_key_that_is_not_in_the_ring_is_named() -> None:
    other = KeyRing((Key("stranger", KeyState.PRIMARY, bytes(32)),))
    with pytest.raises(CheckpointCorrupt, match="'stranger', which is not in this key ring"):
        RING.unseal("manifest", other.seal("manifest", b"body"))


def test_a_key_of_the_same_name_with_another_secret_does_not_verify() -> None:
    stolen_name = KeyRing((Key(RING.primary.id, KeyState.PRIMARY, OTHER_RING.primary.secret),))
    with pytest.raises(CheckpointCorrupt):
        RING.unseal("manifest", stolen_name.seal("manifest", b"body"))


def test_rotation_keeps_old_seals_until_the_old_key_is_disabled() -> None:
    old = RING.primary.id
    sealed = RING.seal("manifest", b"body")
    added = RING.add()
    new = added.keys[-1].id
    assert added.seal("manifest", b"body") == sealed
    promoted = added.promote(new)
    assert promoted.primary.id == new
    assert promoted.key(old).state is KeyState.ACCEPTED
    assert promoted.unseal("manifest", sealed) == b"body"
    assert added.unseal("manifest", promoted.seal("manifest", b"new")) == b"new"
    disabled = promoted.disable(old)
    with pytest.raises(CheckpointCorrupt, match="disabled"):
        disabled.unseal("manifest", sealed)


def test_promoting_leaves_other_keys_as_they_are() -> None:
    three = RING.add().add()
    last = three.keys[-1].id
    promoted = three.promote(last)
    assert [key.state for key in promoted.keys] == [KeyState.ACCEPTED, KeyState.ACCEPTED, KeyState.PRIMARY]


def test_a_disabled_key_is_not_promoted_and_a_primary_key_not_disabled() -> None:
    ring = RING.add()
    second = ring.keys[1].id
    with pytest.raises(ConfigError, match="promote another key before"):
        ring.disable(RING.primary.id)
    with pytest.raises(ConfigError, match="disabled and cannot become primary"):
        ring.disable(second).promote(second)


def test_an_unknown_key_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=rf"No key 'k-none'.*{RING.primary.id} \(primary\)"):
        RING.promote("k-none")


def test_a_ring_needs_one_primary_key_and_different_names() -> None:
    key = Key("a", KeyState.ACCEPTED, bytes(32))
    with pytest.raises(ConfigError, match="exactly one primary"):
        KeyRing((key,))
    with pytest.raises(ConfigError, match="names a key twice"):
        KeyRing((key, key))


@pytest.mark.parametrize("name", ["", "a b", "ä", "x" * 65, "A"])
def test_a_key_name_is_plain(name: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64"):
        Key(name, KeyState.PRIMARY, bytes(32))


def test_a_short_secret_is_refused_and_a_secret_is_never_printed() -> None:
    with pytest.raises(ConfigError, match="holds 16 bytes"):
        Key("a", KeyState.PRIMARY, bytes(16))
    secret = secrets.token_bytes(32)
    assert repr(secret)[2:10] not in repr(KeyRing((Key("a", KeyState.PRIMARY, secret),)))


def test_only_a_disabled_key_is_destroyed_and_then_it_is_unknown() -> None:
    ring = KeyRing.fresh().add()
    first, second = ring.keys
    sealed = ring.seal("p", b"body")
    assert sealed_by(sealed) == first.id
    assert sealed_by(b"no seal") is None
    with pytest.raises(ConfigError, match="is accepted: disable it first"):
        ring.destroy(second.id)
    left = ring.promote(second.id).disable(first.id).destroy(first.id)
    assert [key.id for key in left.keys] == [second.id]
    with pytest.raises(UnknownKey):
        left.unseal("p", sealed)


def test_fingerprints_tell_secrets_apart_and_hold_none_of_them() -> None:
    ring = KeyRing.fresh().add()
    assert len({key.fingerprint for key in ring.keys}) == 2
    assert ring.primary.fingerprint == ring.promote(ring.keys[1].id).keys[0].fingerprint
    assert ring.primary.fingerprint not in ring.primary.secret.hex()
