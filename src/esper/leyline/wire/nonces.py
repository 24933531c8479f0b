"""Numbers that may be used once: which ones were, as long as it matters."""

from __future__ import annotations

from esper.errors import ReplayError


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
