"""Reading messages: what is no message is refused; what a newer writer has added is kept and passed on."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from esper.errors import ContractError

M = TypeVar("M", bound=Message)

VERSION = 1
"""What writers put into `version`. It rises when old readers would misread a message, not when one grows."""


def parsed(kind: type[M], raw: bytes) -> M:
    """The message in some bytes.

    Raises:
        ContractError: they are none of this kind, or of a version that old readers would misread.
    """
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise ContractError(f"{len(raw)} bytes are no {kind.DESCRIPTOR.name}: {error}.") from error
    version = getattr(message, "version", VERSION)
    if not 1 <= version <= VERSION:
        raise ContractError(
            f"A {kind.DESCRIPTOR.name} has version {version}; this Esper reads version 1 to {VERSION}."
        )
    return message
