"""Messages between processes: JSON over a socket, without ever blocking unless asked to wait."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

_LENGTH = struct.Struct("!Q")
_CHUNK_BYTES = 1 << 18


class Channel:
    """One end of a stream of messages, each a JSON value.

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

    def send(self, message: Any) -> None:
        body = json.dumps(message, separators=(",", ":")).encode()
        self._outgoing += _LENGTH.pack(len(body)) + body
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

    def receive(self) -> list[Any]:
        """The messages that have arrived, without waiting.

        Raises:
            EOFError: The other end is closed, and everything that it sent was received.
        """
        self._read()
        messages = []
        while len(self._incoming) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._incoming)[0]
            if len(self._incoming) < end:
                break
            messages.append(json.loads(self._incoming[_LENGTH.size : end]))
            del self._incoming[:end]
        if self._is_ended and not messages:
            raise EOFError
        return messages

    def close(self) -> None:
        self._socket.close()

    def shutdown(self) -> None:
        """Ends the stream for both sides, also where another process has inherited this end."""
        with suppress(OSError):  # the other end is already gone
            self._socket.shutdown(socket.SHUT_RDWR)
        self.close()

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
