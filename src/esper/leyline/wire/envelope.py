"""Signed envelopes: HMAC-SHA256 over the bytes as they came, and nothing is accepted twice.

An envelope is

    mark (4)  length of the names (1)  names  sequence (8)  issued at (8)  nonce (16)  payload  MAC (32)

where the names are key id, sender, receiver and the kind of the payload, with zero bytes between them. The
MAC covers everything before it. It is checked before anything but the names is looked at, and those are
looked up, not parsed, from the second message of a sender on.

Nothing is accepted twice: of a sender that is known, only a higher sequence than the last one; of one that is
not, only a nonce that was not used lately. What is older than that memory is too old to be accepted, and
what was signed for an earlier boot of the receiver does not verify.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from hmac import compare_digest
from typing import NamedTuple

from esper.errors import ContractError, ReplayError, SignatureError
from esper.leyline.wire.keys import BelievedKeys, Mac

MARK = b"esl1"
MAC_BYTES = 32
MAX_BYTES = 1 << 20
WINDOW_SECONDS = 60.0
"""How far the clock of a sender may be away, with the time that a message takes."""
MEMORY_SECONDS = 300.0
"""How long a nonce, and a sender that is silent, are remembered; more than two windows, or replays fit in."""
MAX_SENDERS = 4096
_PLACE = struct.Struct("!Qd16s")
_NAMES_AT = len(MARK) + 1
_NONCES_AT_ONCE = 64
"""Asking the system for each alone would take as long as a MAC."""
_MAX_PREFIXES = 4 * MAX_SENDERS


class Letter(NamedTuple):
    """What was in an envelope that can be believed.

    Attributes:
        kind: name of the message in `payload`.
        sender: who has signed it.
        sequence: its number among those of this sender; those that are missing were lost on the way.
        payload: the bytes of the message.
    """

    kind: str
    sender: str
    sequence: int
    payload: bytes


class Signer:
    """Signs what one sender says to one receiver.

    Args:
        keys: whose primary key signs.
        boot: of the conversation.
        sender: its name, which nobody else uses under this boot.
        receiver: the name of who is to believe it.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        keys: BelievedKeys,
        boot: bytes,
        sender: str,
        receiver: str,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._boot, self._sender, self._receiver = boot, sender, receiver
        self._clock, self._random_bytes = clock, random_bytes
        self._sequence = 0
        self._nonces, self._nonces_at = b"", 0
        self._prefixes: dict[str, bytes] = {}
        self.rotate(keys)

    def rotate(self, keys: BelievedKeys) -> None:
        """Signs with another key from now on; the sequence goes on."""
        mac = keys.mac_for(keys.primary, self._boot, self._sender, self._receiver)
        if mac is None:
            raise SignatureError(f"The primary key {keys.primary!r} is not among those that are believed.")
        self._mac, self._key_id = mac, keys.primary
        self._prefixes.clear()

    def seal(self, kind: str, payload: bytes) -> bytes:
        """An envelope around a message."""
        prefix = self._prefixes.get(kind)
        if prefix is None:
            prefix = self._prefixes[kind] = _prefix(self._key_id, self._sender, self._receiver, kind)
        self._sequence += 1
        at = self._nonces_at
        if at == len(self._nonces):
            self._nonces, at = self._random_bytes(16 * _NONCES_AT_ONCE), 0
        self._nonces_at = at + 16
        nonce = self._nonces[at : at + 16]
        body = prefix + _PLACE.pack(self._sequence, self._clock(), nonce) + payload
        return body + self._mac(body)


class Opener:
    """Opens what is sent to one receiver, by whomever; whatever cannot be believed raises.

    Args:
        keys: that are believed.
        boot: of the conversation; a receiver that keeps no memory beyond its life takes a new one each time.
        receiver: its own name.
        clock: seconds since 1970. One that goes back does not make what is old new: it stands still until
            its later time is reached again, and meanwhile what comes may be refused.
        max_senders: that are remembered at the same time; more are refused.
        max_nonces: of senders that are not known; more in `MEMORY_SECONDS` are refused.
    """

    def __init__(
        self,
        keys: BelievedKeys,
        boot: bytes,
        receiver: str,
        clock: Callable[[], float] = time.time,
        *,
        max_senders: int = MAX_SENDERS,
        max_nonces: int = 1 << 16,
    ) -> None:
        self._keys, self._boot, self._receiver, self._clock = keys, boot, receiver, clock
        self._now = clock()
        self._nonces = NonceCache(MEMORY_SECONDS, max_nonces)
        self._max_senders = max_senders
        self._senders: dict[str, _Sender] = {}
        # By the bytes before the sequence. Only what has verified gets in.
        self._known: dict[bytes, tuple[Mac, str, _Sender]] = {}

    def rotate(self, keys: BelievedKeys) -> None:
        """Believes other keys from now on; what was accepted stays accepted, and is not accepted again."""
        self._keys = keys
        self._known.clear()

    def open(self, raw: bytes) -> Letter:
        """The letter in an envelope.

        Raises:
            ContractError: it is no envelope, or too large.
            SignatureError: its MAC does not verify, or its key is not believed, or it is for somebody else.
            ReplayError: it was accepted before, comes after a later one, or is too old to tell.
        """
        size = len(raw)
        end = size - MAC_BYTES
        start = _NAMES_AT + raw[4] if end > _NAMES_AT else end
        if size > MAX_BYTES or end < start + _PLACE.size:
            raise ContractError(f"{size} bytes are no envelope of at most {MAX_BYTES} bytes.")
        prefix = raw[:start]
        known = self._known.get(prefix)
        mac, kind, sender = known or self._meet(prefix)
        if not compare_digest(mac(raw[:end]), raw[end:]):
            raise SignatureError("An envelope's MAC does not verify: it was altered, or is of another boot.")
        sequence, issued, nonce = _PLACE.unpack_from(raw, start)
        now = self._clock()
        if now > self._now:
            self._now = now
        else:
            now = self._now
        age = now - issued
        if not -WINDOW_SECONDS <= age <= WINDOW_SECONDS:
            raise ReplayError(
                f"A {kind} of {sender.name} is {age:.0f} s old by the clock here, and at most "
                f"{WINDOW_SECONDS:.0f} s are accepted: it was kept back, or clocks differ."
            )
        if sequence <= sender.sequence:
            raise ReplayError(
                f"A {kind} of {sender.name} has number {sequence}, and {sender.sequence} was accepted."
            )
        if known is None:
            self._welcome(prefix, mac, kind, sender, nonce)
        sender.sequence, sender.at = sequence, now
        # As Letter(...) does, in half of the time.
        return tuple.__new__(Letter, (kind, sender.name, sequence, raw[start + _PLACE.size : end]))

    def _meet(self, prefix: bytes) -> tuple[Mac, str, _Sender]:
        """MAC, kind and sender by names that were not seen yet, and that nothing vouches for."""
        try:
            mark, names = prefix[: len(MARK)], prefix[_NAMES_AT:].decode().split("\0")
            key_id, name, receiver, kind = names
        except ValueError:
            mark, key_id, name, receiver, kind = b"", "", "", "", ""
        if mark != MARK:
            raise ContractError("An envelope begins otherwise, with the names of key, sender and receiver.")
        if receiver != self._receiver:
            raise SignatureError(f"An envelope is for {receiver!r}, and this is {self._receiver!r}.")
        mac = self._keys.mac_for(key_id, self._boot, name, receiver)
        if mac is None:
            raise SignatureError(f"An envelope is signed with key {key_id!r}, which is not believed here.")
        return mac, kind, self._senders.get(name) or _Sender(name)

    def _welcome(self, prefix: bytes, mac: Mac, kind: str, sender: _Sender, nonce: bytes) -> None:
        """Remembers who has signed, by another key or of another kind, or was not known at all.

        Raises:
            ReplayError: it was not known, and might have been here before.
        """
        if sender.name not in self._senders:
            self._make_room(sender.name)
            self._nonces.add(nonce, self._now)
            self._senders[sender.name] = sender
        if len(self._known) >= _MAX_PREFIXES:
            self._known.clear()
        self._known[prefix] = (mac, kind, sender)

    def _make_room(self, name: str) -> None:
        if len(self._senders) < self._max_senders:
            return
        silent = [other for other in self._senders.values() if self._now - other.at > MEMORY_SECONDS]
        if not silent:
            raise ReplayError(
                f"{self._max_senders} senders are remembered, and {name} would be one more: nobody could "
                f"tell whether it was here before. Who is silent for {MEMORY_SECONDS:.0f} s makes room."
            )
        for other in silent:
            del self._senders[other.name]
        self._known.clear()  # it holds those that have gone


class _Sender:
    """Somebody who was believed: the highest sequence, and when that came; 0 before the first."""

    __slots__ = ("at", "name", "sequence")

    def __init__(self, name: str) -> None:
        self.name, self.sequence, self.at = name, 0, 0.0


def _prefix(*names: str) -> bytes:
    text = "\0".join(names).encode()
    if text.count(b"\0") != len(names) - 1 or len(text) > 255:
        raise ContractError(f"An envelope cannot name {names}: at most 252 bytes without zero bytes fit.")
    return MARK + bytes([len(text)]) + text


class NonceCache:
    """Remembers nonces for at least `seconds`, and at most `most` of them; then it refuses all new ones.

    Two sets take turns: when the newer one is `seconds` old the older one is dropped. So nothing is forgotten
    one by one, and nothing early.
    """

    def __init__(self, seconds: float, most: int) -> None:
        self._seconds, self._most = seconds, most
        self._newer: set[bytes] = set()
        self._older: set[bytes] = set()
        self._since = float("-inf")

    def add(self, nonce: bytes, now: float) -> None:
        """Uses a nonce.

        Args:
            nonce: the number.
            now: seconds on a clock that never goes back.

        Raises:
            ReplayError: it was used, or so many were that no more can be remembered.
        """
        if now - self._since >= self._seconds:
            is_gap = now - self._since >= 2 * self._seconds
            self._older, self._newer = (set() if is_gap else self._newer), set()
            self._since = now
        if nonce in self._newer or nonce in self._older:
            raise ReplayError("A message has a nonce that was used: it was accepted before.")
        if len(self._newer) + len(self._older) >= self._most:
            raise ReplayError(
                f"{self._most} nonces are remembered, which is all that fit: nobody could tell a replay. "
                f"They are forgotten after {self._seconds:.0f} to {3 * self._seconds:.0f} s."
            )
        self._newer.add(nonce)
