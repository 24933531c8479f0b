"""Messages between processes: JSON over a socket, without ever blocking unless asked to wait."""

from __future__ import annotations

import json
import select
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol

_MARK = b"espr"
_HEADER = struct.Struct("!4sIQ")
"""The mark, checksum and length of the body that follows."""

_CHUNK_BYTES = 1 << 18


class BrokenMessage(ValueError):
    """Something arrived that nobody sent as a message, such as the output of a program."""


class Channel:
    """One end of a stream of messages, each a JSON object.

    `send` never blocks: what the socket does not take at once waits for `flush`.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._is_ended = False

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_open(self) -> bool:
        """Was it not closed at this end?"""
        return self.fileno() >= 0

    @property
    def is_behind(self) -> bool:
        """Whether something that was sent still waits here."""
        return bool(self._outgoing)

    def send(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message, separators=(",", ":")).encode()
        self._outgoing += _HEADER.pack(_MARK, zlib.crc32(body), len(body)) + body
        self.flush()

    def flush(self) -> None:
        """Writes what the socket takes now. What the other end can no longer read is dropped."""
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(memoryview(self._outgoing)[:_CHUNK_BYTES].tobytes())]
        except BlockingIOError:
            return
        except OSError:
            self._outgoing.clear()  # the other end is gone, and reading will say so

    def finish(self) -> None:
        """Waits until all that was sent is written."""
        while self._outgoing:
            wait_for([self], None)
            self.flush()

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages that have arrived, without waiting.

        Raises:
            EOFError: After the last of them: the other end is closed.
            BrokenMessage: After the last of them: what comes next is no message, and nothing after it can be.
        """
        self._read()
        while (message := self._next()) is not None:
            yield message
        if self._is_ended:
            raise EOFError

    def close(self) -> None:
        self._socket.close()

    def hang_up(self) -> None:
        """Tells the other end that nothing more comes, also where another process has inherited this end."""
        with suppress(OSError):  # the other end is already gone
            self._socket.shutdown(socket.SHUT_WR)

    def _next(self) -> dict[str, Any] | None:
        """Takes one message from what was read; None if it is not there as a whole."""
        head = bytes(self._incoming[: _HEADER.size])
        if head[: len(_MARK)] != _MARK[: len(head)]:
            raise BrokenMessage(f"No message begins with {head!r}.")
        if len(head) < _HEADER.size:
            return None
        _, checksum, length = _HEADER.unpack(head)
        end = _HEADER.size + length
        if len(self._incoming) < end:
            return None
        body = self._incoming[_HEADER.size : end]
        if zlib.crc32(body) != checksum:
            raise BrokenMessage(f"A message of {length} bytes does not have its checksum.")
        del self._incoming[:end]
        message: dict[str, Any] = json.loads(body)
        return message

    def _read(self) -> None:
        try:
            while chunk := self._socket.recv(_CHUNK_BYTES):
                self._incoming += chunk
            self._is_ended = True
        except BlockingIOError:
            return
        except OSError:
            self._is_ended = True


class Waitable(Protocol):
    """Something with a file descriptor that `wait_for` can wait for."""

    @property
    def is_behind(self) -> bool: ...

    def fileno(self) -> int: ...

    def flush(self) -> None: ...


def wait_for(channels: Iterable[Waitable], timeout_seconds: float | None) -> list[Waitable]:
    """Those on which something can be received, or written where one is behind; waits for the first."""
    poll = select.poll()
    by_number = {channel.fileno(): channel for channel in channels}
    for number, channel in by_number.items():
        poll.register(number, select.POLLIN | (select.POLLOUT if channel.is_behind else 0))
    milliseconds = None if timeout_seconds is None else max(0.0, timeout_seconds) * 1000.0
    return [by_number[number] for number, _ in poll.poll(milliseconds)]
