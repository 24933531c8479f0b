"""Names that follow from content: the same thing has the same id in every process and after every restart."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from esper.errors import ContractError
from esper.leyline.words import Level

_ID_CHARACTERS = 16


def stable_id(*parts: str) -> str:
    """16 hex characters of SHA-256 over the parts, in order; ("a", "bc") and ("ab", "c") differ."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()[:_ID_CHARACTERS]


def content_id(content: Any) -> str:
    """The id of anything that JSON can hold, whatever the order of its keys.

    Raises:
        ContractError: the content is not JSON, or holds NaN or infinity, which JSON cannot say.
    """
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"An id needs content that JSON can hold: {error}. Say null where nothing is known."
        ) from error
    return stable_id(text)


@dataclass(frozen=True)
class IdempotencyKey:
    """Marks one decision about one model at one epoch, so that a repeat is recognized.

    Source: spec 002, "Security Considerations": `{epoch}:{model_hash}:{decision_id}:{analysis_level}`. The
    decision id comes from content (`content_id`), never from a fresh request.
    """

    epoch: int
    model_hash: str
    decision_id: str
    level: Level

    def __post_init__(self) -> None:
        if self.epoch < 0:
            raise ContractError(f"An idempotency key has epoch {self.epoch}, expected 0 or more.")
        for name in ("model_hash", "decision_id"):
            value = getattr(self, name)
            if not value or ":" in value:
                raise ContractError(
                    f"An idempotency key has {name} {value!r}, expected text without a colon."
                )

    def __str__(self) -> str:
        return f"{self.epoch}:{self.model_hash}:{self.decision_id}:{self.level}"

    @classmethod
    def parse(cls, text: str) -> IdempotencyKey:
        """The inverse of `str(key)`.

        Raises:
            ContractError: the text is not such a key.
        """
        try:
            epoch, model_hash, decision_id, level = text.split(":")
            key = cls(int(epoch), model_hash, decision_id, Level(level))
        except ValueError as error:
            raise ContractError(
                f"{text!r} is not a key of the form epoch:model_hash:decision_id:level."
            ) from error
        if str(key) != text:
            raise ContractError(f"{text!r} is not in canonical form; expected {str(key)!r}.")
        return key
