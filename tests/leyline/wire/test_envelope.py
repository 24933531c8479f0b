from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper.errors import ContractError, ReplayError, SignatureError
from esper.leyline import ManualClock
from esper.leyline.wire import BelievedKeys, Letter, Opener, Signer

KEYS = BelievedKeys("k-1", {"k-1": b"s" * 32})
BOOT = b"b" * 16


def pair(clock: ManualClock, **limits: int) -> tuple[Signer, Opener]:
    return Signer(KEYS, BOOT, "me", "you", clock), Opener(KEYS, BOOT, "you", clock, **limits)


def test_a_letter_arrives_with_kind_sender_and_number() -> None:
    signer, opener = pair(ManualClock())
    assert opener.open(signer.seal("Note", b"text")) == Letter("Note", "me", 1, b"text")
    signer.seal("Note", b"lost on the way")
    assert opener.open(signer.seal("Other", b"")) == Letter("Other", "me", 3, b"")


@given(st.data())
def test_no_flipped_bit_and_no_cut_is_accepted(data: st.DataObject) -> None:
    signer, opener = pair(ManualClock())
    opener.open(signer.seal("Note", b"first"))
    raw = bytearray(signer.seal("Note", b"second"))
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(raw) - 1))
        raw[bit // 8] ^= 1 << bit % 8
    else:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    with pytest.raises(ContractError):
        opener.open(bytes(raw))


@given(st.binary(max_size=400))
def test_noise_is_refused(noise: bytes) -> None:
    _, opener = pair(ManualClock())
    for raw in (noise, b"esl1" + noise):
        with pytest.raises(ContractError):
            opener.open(raw)


def test_what_was_accepted_or_overtaken_is_a_replay() -> None:
    signer, opener = pair(ManualClock())
    first, second = signer.seal("Note", b"1"), signer.seal("Note", b"2")
    opener.open(second)
    for raw in (second, first):
        with pytest.raises(ReplayError, match="and 2 was accepted"):
            opener.open(raw)


@pytest.mark.parametrize("seconds", [61.0, 1e6])
def test_what_is_too_old_is_refused(seconds: float) -> None:
    clock = ManualClock()
    signer, opener = pair(clock)
    raw = signer.seal("Note", b"")
    clock.advance(seconds)
    with pytest.raises(ReplayError, match=f"{seconds:.0f} s old"):
        opener.open(raw)


def test_a_sender_whose_clock_is_ahead_is_refused() -> None:
    with pytest.raises(ReplayError, match="-61 s old"):
        Opener(KEYS, BOOT, "you", ManualClock()).open(
            Signer(KEYS, BOOT, "me", "you", ManualClock(61.0)).seal("Note", b"")
        )


def test_a_clock_that_goes_back_makes_nothing_new() -> None:
    times = iter([1000.0, 1000.0, 1400.0, 1000.0])
    opener = Opener(KEYS, BOOT, "you", lambda: next(times), max_senders=1)
    opener.open(Signer(KEYS, BOOT, "me", "you", ManualClock(1000.0)).seal("Note", b""))
    opener.open(Signer(KEYS, BOOT, "another", "you", ManualClock(1400.0)).seal("Note", b""))  # forgets `me`
    with pytest.raises(ReplayError, match="400 s old"):
        opener.open(Signer(KEYS, BOOT, "me", "you", ManualClock(1000.0)).seal("Note", b""))


def test_more_senders_than_can_be_remembered_are_refused_until_some_were_silent() -> None:
    clock = ManualClock()
    opener = Opener(KEYS, BOOT, "you", clock, max_senders=2)
    for name in ("a", "b"):
        opener.open(Signer(KEYS, BOOT, name, "you", clock).seal("Note", b""))
    late = Signer(KEYS, BOOT, "c", "you", clock)
    with pytest.raises(ReplayError, match="2 senders are remembered"):
        opener.open(late.seal("Note", b""))
    clock.advance(301.0)
    assert opener.open(late.seal("Note", b"")).sender == "c"


def test_when_no_more_nonces_fit_nobody_new_is_let_in_and_those_who_are_known_go_on() -> None:
    clock = ManualClock()
    signer, opener = pair(clock, max_nonces=1)
    opener.open(signer.seal("Note", b""))
    with pytest.raises(ReplayError, match="nonces are remembered"):
        opener.open(Signer(KEYS, BOOT, "other", "you", clock).seal("Note", b""))
    assert opener.open(signer.seal("Note", b"")).sequence == 2


@pytest.mark.parametrize(
    ("signer", "why"),
    [
        (Signer(KEYS, b"another boot", "me", "you", ManualClock()), "does not verify"),
        (Signer(KEYS, BOOT, "me", "somebody", ManualClock()), "for 'somebody'"),
        (
            Signer(BelievedKeys("k-1", {"k-1": b"t" * 32}), BOOT, "me", "you", ManualClock()),
            "does not verify",
        ),
        (Signer(BelievedKeys("k-2", {"k-2": b"s" * 32}), BOOT, "me", "you", ManualClock()), "not believed"),
    ],
)
def test_another_boot_receiver_or_key_is_not_believed(signer: Signer, why: str) -> None:
    with pytest.raises(SignatureError, match=why):
        Opener(KEYS, BOOT, "you", ManualClock()).open(signer.seal("Note", b""))


def test_too_large_an_envelope_is_refused_before_anything_is_computed() -> None:
    signer, opener = pair(ManualClock())
    with pytest.raises(ContractError, match="at most 1048576"):
        opener.open(signer.seal("Note", bytes(1 << 20)))


def test_names_that_do_not_fit_are_refused_where_they_are_given() -> None:
    for name in ("with\0zero", "x" * 300):
        with pytest.raises(ContractError, match="cannot name"):
            Signer(KEYS, BOOT, name, "you", ManualClock()).seal("Note", b"")


def test_a_ring_whose_primary_key_is_missing_signs_nothing() -> None:
    with pytest.raises(SignatureError, match="primary key 'gone'"):
        Signer(BelievedKeys("gone", {}), BOOT, "me", "you")
