"""Keys and seals: who may have written a file, proven by HMAC-SHA256 before anything in it is believed."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from esper.errors import CheckpointCorrupt, ConfigError
from esper.leyline.wire import BelievedKeys

KEY_BYTES = 32
KEY_ID = re.compile(r"[a-z0-9-]{1,64}")
_SEAL = re.compile(rb'\{"key":"([a-z0-9-]{1,64})","mac":"([0-9a-f]{64})"\}\n\Z')


class UnknownKey(CheckpointCorrupt):
    """A seal by a key that this ring does not hold: the bytes may be good, and the ring the wrong one."""


class KeyState(StrEnum):
    """What a key may still do."""

    PRIMARY = "primary"
    """Signs what is written now, and verifies."""
    ACCEPTED = "accepted"
    """Verifies what was written earlier."""
    DISABLED = "disabled"
    """Neither signs nor verifies."""


@dataclass(frozen=True)
class Key:
    """One secret with its name and state; the secret is not shown when the key is printed."""

    id: str
    state: KeyState
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not KEY_ID.fullmatch(self.id):
            raise ConfigError(f"Key id {self.id!r} does not fit: 1 to 64 of a-z, 0-9 and '-' are expected.")
        if len(self.secret) < KEY_BYTES:
            raise ConfigError(
                f"Key {self.id!r} holds {len(self.secret)} bytes; at least {KEY_BYTES} random bytes are "
                f"expected."
            )

    @property
    def fingerprint(self) -> str:
        """Shows that two rings hold the same secret, and nothing of it."""
        return hmac.new(self.secret, b"esper key fingerprint", hashlib.sha256).hexdigest()[:32]


@dataclass(frozen=True)
class KeyRing:
    """All keys of a run, exactly one of them primary. A value: rotation returns a new ring.

    Rotation is `add` (the new key is accepted everywhere first), `promote` (it signs from now on), `disable`
    (the old one is no longer believed).
    """

    keys: tuple[Key, ...]

    was_held: ClassVar[bool] = False
    """Whether this process holds a ring, or did: memory is not wiped, and a fork would have it too."""

    def __post_init__(self) -> None:
        KeyRing.was_held = True
        ids = [key.id for key in self.keys]
        if len(set(ids)) != len(ids):
            raise ConfigError(f"A key ring names a key twice: {', '.join(sorted(ids))}.")
        primaries = [key.id for key in self.keys if key.state is KeyState.PRIMARY]
        if len(primaries) != 1:
            raise ConfigError(
                f"A key ring needs exactly one primary key; this one has {len(primaries)} among {len(ids)} "
                f"keys."
            )

    @classmethod
    def fresh(cls, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> KeyRing:
        """A ring with one new primary key."""
        return cls((_new_key(KeyState.PRIMARY, random_bytes),))

    @property
    def primary(self) -> Key:
        """The key that signs."""
        return next(key for key in self.keys if key.state is KeyState.PRIMARY)

    def key(self, key_id: str) -> Key:
        """The key of that name, or a ConfigError that lists the names there are."""
        for key in self.keys:
            if key.id == key_id:
                return key
        known = ", ".join(f"{key.id} ({key.state})" for key in self.keys)
        raise ConfigError(f"No key {key_id!r} in the ring. It holds: {known}.")

    def add(self, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> KeyRing:
        """The ring with one new accepted key, which stands last."""
        return KeyRing((*self.keys, _new_key(KeyState.ACCEPTED, random_bytes)))

    def promote(self, key_id: str) -> KeyRing:
        """The ring in which `key_id` signs; the former primary stays accepted."""
        if self.key(key_id).state is KeyState.DISABLED:
            raise ConfigError(f"Key {key_id!r} is disabled and cannot become primary: add a new key instead.")
        return KeyRing(
            tuple(
                replace(key, state=KeyState.PRIMARY)
                if key.id == key_id
                else replace(key, state=KeyState.ACCEPTED)
                if key.state is KeyState.PRIMARY
                else key
                for key in self.keys
            )
        )

    def disable(self, key_id: str) -> KeyRing:
        """The ring that no longer believes `key_id`; what only that key signed will be rejected."""
        if self.key(key_id).state is KeyState.PRIMARY:
            raise ConfigError(f"Key {key_id!r} is primary: promote another key before you disable this one.")
        return KeyRing(
            tuple(replace(key, state=KeyState.DISABLED) if key.id == key_id else key for key in self.keys)
        )

    def destroy(self, key_id: str) -> KeyRing:
        """The ring without a disabled key: nobody can believe again what only that key sealed."""
        if self.key(key_id).state is not KeyState.DISABLED:
            raise ConfigError(
                f"Key {key_id!r} is {self.key(key_id).state}: disable it first, and see what is missed."
            )
        return KeyRing(tuple(key for key in self.keys if key.id != key_id))

    def believed(self) -> BelievedKeys:
        """The same keys for messages between processes: those that are not disabled."""
        secrets = {key.id: key.secret for key in self.keys if key.state is not KeyState.DISABLED}
        return BelievedKeys(self.primary.id, secrets)

    def seal(self, purpose: str, body: bytes) -> bytes:
        """`body`, a line break, and one line with the primary key's id and its MAC over purpose and body."""
        key = self.primary
        return body + f'\n{{"key":"{key.id}","mac":"{_mac(key, purpose, body)}"}}\n'.encode()

    def unseal(self, purpose: str, raw: bytes) -> bytes:
        """The body of what `seal` made for the same purpose.

        Raises:
            UnknownKey: it was sealed by a key that this ring does not hold.
            CheckpointCorrupt: the seal is missing, altered, made for another purpose or by a key that is not
                believed. Nothing of the body has been parsed.
        """
        body, _, line = raw[:-1].rpartition(b"\n")
        seal = _SEAL.fullmatch(line + raw[-1:])
        if seal is None:
            raise CheckpointCorrupt(
                "it ends without a seal (a last line with key id and MAC), so it was cut or altered"
            )
        key_id = seal[1].decode()
        key = next((key for key in self.keys if key.id == key_id), None)
        if key is None:
            raise UnknownKey(f"it is sealed with key {key_id!r}, which is not in this key ring")
        if key.state is KeyState.DISABLED:
            raise CheckpointCorrupt(f"it is sealed with key {key_id!r}, which is disabled")
        if not hmac.compare_digest(_mac(key, purpose, body).encode(), seal[2]):
            raise CheckpointCorrupt(f"its MAC does not verify with key {key_id!r}, so its bytes were altered")
        return body


def sealed_by(raw: bytes) -> str | None:
    """The id of the key that a seal names, believed or not; None if there is no seal."""
    seal = _SEAL.fullmatch(raw[:-1].rpartition(b"\n")[2] + raw[-1:])
    return None if seal is None else seal[1].decode()


def _new_key(state: KeyState, random_bytes: Callable[[int], bytes]) -> Key:
    return Key("k-" + random_bytes(6).hex(), state, random_bytes(KEY_BYTES))


def _mac(key: Key, purpose: str, body: bytes) -> str:
    """Hex HMAC-SHA256; the purpose keeps a seal for one kind of file from passing for another."""
    return hmac.digest(key.secret, purpose.encode() + b"\0" + body, "sha256").hex()
