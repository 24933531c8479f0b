"""Messages come out as they went in; what is none is noticed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper.workers.channel import BrokenMessage, Channel

Message = dict[str, object]
MESSAGES = st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=4)


@contextmanager
def pair() -> Iterator[tuple[Channel, Channel, socket.socket]]:
    """Two ends, and the socket of the first one, for those who write past it."""
    one, other = socket.socketpair()
    with one, other:
        yield Channel(one), Channel(other), one


def receive_all(channel: Channel, received: list[Message]) -> None:
    """Receives until the other end is closed."""
    while True:
        try:
            received.extend(channel.receive())
        except EOFError:
            return


@settings(max_examples=30)
@given(messages=MESSAGES)
def test_messages_come_out_as_they_went_in(messages: list[Message]) -> None:
    received: list[Message] = []
    with pair() as (one, other, _):
        for message in messages:
            one.send(message)
        one.hang_up()
        receive_all(other, received)
    assert received == messages


@settings(max_examples=30)
@given(before=MESSAGES, stray=st.binary(min_size=1), after=MESSAGES.filter(bool))
def test_stray_bytes_are_noticed_and_lose_no_message_that_came_before(
    before: list[Message], stray: bytes, after: list[Message]
) -> None:
    received: list[Message] = []
    with pair() as (one, other, raw):
        for message in before:
            one.send(message)
        raw.send(stray)
        for message in after:
            one.send(message)
        one.hang_up()
        with pytest.raises(BrokenMessage):
            receive_all(other, received)
    assert received == before


@pytest.mark.parametrize("place", [0, 6, 20])
def test_a_message_that_was_altered_on_its_way_is_noticed(place: int) -> None:
    with pair() as (one, other, raw):
        one.send({"value": "something to alter"})
        sent = bytearray(other._socket.recv(4096))
        sent[place] ^= 1
        raw.send(sent)
        with pytest.raises(BrokenMessage):
            list(other.receive())


def test_what_does_not_arrive_as_a_whole_is_no_message() -> None:
    with pair() as (one, other, raw):
        one.send({"value": 1})
        raw.send(other._socket.recv(4096)[:-1])
        assert list(other.receive()) == []
        one.hang_up()
        with pytest.raises(EOFError):
            list(other.receive())
