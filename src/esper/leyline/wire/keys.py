"""Keys of a conversation: made from a secret of the ring for one boot, one sender and one receiver."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

_PURPOSE = b"esper envelope 1"
_BLOCK_BYTES = 64

Mac = Callable[[bytes], bytes]
"""Makes the 32 bytes of HMAC-SHA256 of some bytes with one key."""


@dataclass(frozen=True)
class BelievedKeys:
    """The secrets by which messages are believed, and the one that signs.

    Attributes:
        primary: id of the key that signs.
        secrets: every key that is believed, by id; more than the primary while keys are being rotated.
    """

    primary: str
    secrets: Mapping[str, bytes] = field(repr=False)

    def mac_for(self, key_id: str, boot: bytes, sender: str, receiver: str) -> Mac | None:
        """What signs from `sender` to `receiver` as long as `boot` lives; None: that key is not believed.

        What was signed for an earlier boot does not verify under a later one, so a receiver may forget what
        it has seen when it ends.
        """
        secret = self.secrets.get(key_id)
        if secret is None:
            return None
        names = (name.encode() for name in (key_id, sender, receiver))
        info = _PURPOSE + b"".join(len(name).to_bytes(2, "big") + name for name in names)
        return mac_with(hkdf(secret, boot, info))


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256, which is one block.

    Source: RFC 5869.
    """
    extracted = hmac.digest(salt or bytes(hashlib.sha256().digest_size), secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def mac_with(key: bytes) -> Mac:
    """HMAC-SHA256 with one key of at most 64 bytes, which is prepared once: a third of the time for each.

    Source: RFC 2104.
    """
    padded = key.ljust(_BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)).copy
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded)).copy

    def mac(body: bytes) -> bytes:
        within, around = inner(), outer()
        within.update(body)
        around.update(within.digest())
        return around.digest()

    return mac
