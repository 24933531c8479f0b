"""What every bus does alike, in memory, in a file and in a Redis server."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from esper.errors import ContractError
from esper.leyline.wire import messages
from esper.oona import Limits, MemoryBus, envelope_of
from esper.oona.bus import Bus, Delivery, Subscription
from esper.oona.journal import JournalBus
from esper.oona.streams import RedisBus
from tests.oona.servers import redis_server

TOPIC = "TelemetryEvent"
LOW, NORMAL, HIGH = messages.PRIORITY_LOW, messages.PRIORITY_NORMAL, messages.PRIORITY_HIGH
PATIENCE = 30.0
"""Seconds after which a test gives up."""

Opener = Callable[..., Bus]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redis_server() as (address, _):
        yield address


@pytest.fixture(params=["memory", "journal", "redis"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens buses that know nothing of other tests; a durable one can be opened again."""
    buses: list[Bus] = []

    def open_(limits: Limits | None = None) -> Bus:
        if request.param == "memory":
            assert not buses, "what is in memory cannot be opened again"
            bus: Bus = MemoryBus(limits)
        elif request.param == "journal":
            bus = JournalBus(tmp_path / "bus.sqlite", limits)
        else:
            bus = RedisBus(request.getfixturevalue("server"), limits)
        buses.append(bus)
        return bus

    if request.param == "redis":
        import redis

        with redis.Redis.from_url(request.getfixturevalue("server")) as client:
            client.flushall()
    yield open_
    for bus in buses:
        bus.close()


def said(text: str, **given: object) -> messages.EventEnvelope:
    message = messages.TelemetryEvent(version=1, kind="noted", text=text)
    given = {"at_seconds": time.time(), **given}
    return envelope_of(message, **given)  # type: ignore[arg-type]


def texts(deliveries: list[Delivery]) -> list[str]:
    return [messages.TelemetryEvent.FromString(one.envelope.payload).text for one in deliveries]


def until_some(subscription: Subscription, most: int = 100) -> list[Delivery]:
    taken = subscription.receive(most, PATIENCE)
    assert taken, "nothing came"
    return taken


def test_what_is_published_is_received_whole_and_in_order(opened: Opener) -> None:
    bus = opened()
    sent = [said(str(number), key=f"run/{number}", lives_seconds=60.0) for number in range(10)]
    receipt = bus.publish(sent)
    assert (receipt.stored, receipt.known, receipt.shed, receipt.displaced) == (10, 0, (), 0)
    received = bus.subscribe(TOPIC, "page").receive(100)
    assert [one.envelope for one in received] == sent
    assert {one.attempt for one in received} == {1}
    assert bus.counts(TOPIC).records == 10


def test_nothing_is_received_where_nothing_is_and_many_are_received_in_parts(opened: Opener) -> None:
    bus = opened()
    reader = bus.subscribe(TOPIC, "page")
    assert reader.receive(10) == []
    assert bus.publish([]).stored == 0
    bus.publish([said(str(number)) for number in range(7)])
    assert [len(reader.receive(3)) for _ in range(4)] == [3, 3, 1, 0]


def test_every_group_gets_everything_and_its_readers_share_it(opened: Opener) -> None:
    bus = opened()
    readers = [bus.subscribe(TOPIC, "page"), bus.subscribe(TOPIC, "page"), bus.subscribe(TOPIC, "pager")]
    bus.publish([said(str(number)) for number in range(4)])
    parts = [texts(readers[0].receive(3)), texts(readers[1].receive(3)), texts(readers[2].receive(9))]
    assert parts == [["0", "1", "2"], ["3"], ["0", "1", "2", "3"]]
    late = bus.subscribe(TOPIC, "late")
    assert texts(late.receive(9)) == ["0", "1", "2", "3"]


def test_topics_do_not_mix(opened: Opener) -> None:
    bus = opened()
    receipt = bus.publish([said("a"), said("b", topic="TelemetryEvent.trainer"), said("c")])
    assert receipt.stored == 3
    assert texts(bus.subscribe("TelemetryEvent.trainer", "page").receive(9)) == ["b"]
    assert texts(bus.subscribe(TOPIC, "page").receive(9)) == ["a", "c"]


def test_what_is_acknowledged_never_comes_again_and_counts_once(opened: Opener) -> None:
    bus = opened(Limits(lease_seconds=0.05))
    reader = bus.subscribe(TOPIC, "page")
    bus.publish([said("done"), said("abandoned")])
    done, _abandoned = reader.receive(9)
    assert reader.ack([done]) == 1
    assert reader.ack([done]) == 0
    (again,) = until_some(reader)
    assert texts([again]) == ["abandoned"]
    assert again.attempt == 2
    assert reader.ack([again]) == 1
    assert reader.receive(9, 0.2) == []


def test_what_a_dead_reader_had_goes_to_another_of_its_group(opened: Opener) -> None:
    bus = opened(Limits(lease_seconds=0.05))
    dead, alive = bus.subscribe(TOPIC, "page"), bus.subscribe(TOPIC, "page")
    bus.publish([said("work", key="k")])
    assert texts(dead.receive(9)) == ["work"]
    (again,) = until_some(alive)
    assert (texts([again]), again.attempt, again.envelope.idempotency_key) == (["work"], 2, "k")
    assert dead.ack([again]) == 1, "it is the record that is done, whoever says so"


def test_nobody_else_gets_a_record_while_its_lease_lasts(opened: Opener) -> None:
    bus = opened(Limits(lease_seconds=3600.0))
    busy, idle = bus.subscribe(TOPIC, "page"), bus.subscribe(TOPIC, "page")
    bus.publish([said("work")])
    assert len(busy.receive(9)) == 1
    assert idle.receive(9, 0.1) == []


def test_a_key_is_taken_once_as_long_as_its_record_lies_there(opened: Opener) -> None:
    bus = opened()
    first = bus.publish([said("a", key="1"), said("b", key="2"), said("b again", key="2")])
    assert (first.stored, first.known) == (2, 1)
    reader = bus.subscribe(TOPIC, "page")
    reader.ack(reader.receive(9))
    again = bus.publish([said("a", key="1"), said("c", key="3"), said("no key"), said("no key")])
    assert (again.stored, again.known) == (3, 1)
    assert texts(reader.receive(9)) == ["c", "no key", "no key"]
    assert bus.publish([said("a", key="1", topic="Other")]).stored == 1, "another topic has other keys"
    assert bus.publish([said("a", key="1", priority=HIGH)]).known == 1


def test_what_matters_more_is_received_first_and_the_rest_in_order(opened: Opener) -> None:
    bus = opened()
    given = [("a", LOW), ("b", NORMAL), ("c", HIGH), ("d", LOW), ("e", HIGH), ("f", NORMAL)]
    bus.publish([said(text, priority=priority) for text, priority in given])
    assert texts(bus.subscribe(TOPIC, "page").receive(9)) == ["c", "e", "b", "f", "a", "d"]


def test_a_full_topic_sheds_the_oldest_of_the_lowest_priority_and_counts_it(opened: Opener) -> None:
    bus = opened(Limits(max_records=4))
    bus.publish([said("a", priority=LOW), said("b", priority=NORMAL), said("c", priority=LOW), said("d")])
    receipt = bus.publish([said("e", priority=HIGH), said("f", priority=LOW), said("g", priority=NORMAL)])
    assert (receipt.stored, receipt.shed, receipt.displaced) == (2, (1,), 2)
    full = bus.publish([said("h"), said("i", priority=HIGH)])
    assert (full.stored, full.shed, full.displaced) == (1, (0,), 1)
    assert texts(bus.subscribe(TOPIC, "page").receive(9)) == ["e", "i", "d", "g"]
    counts = bus.counts(TOPIC)
    assert (counts.records, counts.shed) == (4, 5)


def test_a_key_is_known_where_the_topic_is_full_too(opened: Opener) -> None:
    bus = opened(Limits(max_records=2))
    bus.publish([said("a", key="1"), said("b", key="2")])
    receipt = bus.publish([said("a", key="1"), said("c", key="3"), said("d", key="4", priority=HIGH)])
    assert (receipt.known, receipt.shed, receipt.stored, receipt.displaced) == (1, (1,), 1, 1)
    freed = bus.publish([said("a", key="1", priority=HIGH)])
    assert freed.stored == 1, "what was displaced is not known any more"


def test_a_topic_goes_on_for_ever_if_its_groups_read(opened: Opener) -> None:
    bus = opened(Limits(max_records=10))
    readers = [bus.subscribe(TOPIC, "page"), bus.subscribe(TOPIC, "pager")]
    for number in range(40):
        receipt = bus.publish([said(str(number), key=str(number)), said(f"{number}!", priority=LOW)])
        assert (receipt.stored, receipt.shed) == (2, ())
        for reader in readers:
            assert reader.ack(reader.receive(9)) == 2
    counts = bus.counts(TOPIC)
    assert counts.records <= 10
    assert counts.shed == 0


def test_a_topic_that_one_group_does_not_read_is_full(opened: Opener) -> None:
    bus = opened(Limits(max_records=4))
    reads, idle = bus.subscribe(TOPIC, "page"), bus.subscribe(TOPIC, "idle")
    shed = 0
    for number in range(6):
        shed += len(bus.publish([said(str(number))]).shed)
        reads.ack(reads.receive(9))
    assert shed == bus.counts(TOPIC).shed == 2
    assert texts(idle.receive(9)) == ["0", "1", "2", "3"]


def test_what_is_older_than_it_may_become_is_not_received_and_makes_room(opened: Opener) -> None:
    bus = opened(Limits(max_records=2))
    early = bus.subscribe(TOPIC, "early")
    bus.publish([said("old", at_seconds=1.0, lives_seconds=5.0), said("young", lives_seconds=600.0)])
    assert texts(early.receive(9)) == ["young"]
    assert bus.counts(TOPIC).expired == 1
    assert bus.publish([said("new")]).stored == 1
    assert texts(bus.subscribe(TOPIC, "late").receive(9)) == ["young", "new"]


def test_a_record_is_a_dead_letter_after_five_deliveries(opened: Opener) -> None:
    bus = opened(Limits(lease_seconds=0.02))
    reader = bus.subscribe(TOPIC, "page")
    bus.publish([said("poison", key="p")])
    attempts = [until_some(reader)[0].attempt for _ in range(5)]
    assert attempts == [1, 2, 3, 4, 5]
    assert bus.dead(TOPIC, "page") == []
    assert reader.receive(9, 0.2) == []
    (letter,) = bus.dead(TOPIC, "page")
    assert letter.envelope.idempotency_key == "p"
    assert letter.deliveries == 5
    assert letter.reason == "nobody acknowledged it in 5 deliveries"
    assert abs(letter.at_seconds - time.time()) < PATIENCE
    assert bus.dead(TOPIC, "nobody") == bus.dead("Nothing", "page") == []


def test_only_the_newest_dead_letters_are_kept_and_the_others_counted(opened: Opener) -> None:
    bus = opened(Limits(lease_seconds=0.01, max_deliveries=1, max_dead=2))
    reader = bus.subscribe(TOPIC, "page")
    bus.publish([said(str(number)) for number in range(5)])
    assert len(reader.receive(9)) == 5
    end = time.monotonic() + PATIENCE
    while bus.counts(TOPIC).forgotten < 3 and time.monotonic() < end:
        assert reader.receive(9, 0.05) == []
    assert bus.counts(TOPIC).forgotten == 3
    payloads = [letter.envelope.payload for letter in bus.dead(TOPIC, "page")]
    assert [messages.TelemetryEvent.FromString(payload).text for payload in payloads] == ["3", "4"]


def test_who_waits_is_woken_by_a_record(opened: Opener) -> None:
    bus = opened()
    reader = bus.subscribe(TOPIC, "page")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(reader.receive, 9, PATIENCE)
        bus.publish([said("news")])
        assert texts(waiting.result(PATIENCE)) == ["news"]


def test_threads_that_publish_and_read_lose_nothing_and_get_nothing_twice(opened: Opener) -> None:
    bus, wanted = opened(), 4 * 50
    got: list[str] = []
    lock = threading.Lock()

    def publish(name: int) -> None:
        for number in range(50):
            bus.publish([said(f"{name}/{number}")])

    def read() -> None:
        reader = bus.subscribe(TOPIC, "page")
        end = time.monotonic() + PATIENCE
        while len(got) < wanted and time.monotonic() < end:
            taken = reader.receive(7, 0.05)
            reader.ack(taken)
            with lock:
                got.extend(texts(taken))

    with ThreadPoolExecutor(6) as threads:
        for job in [*(threads.submit(publish, name) for name in range(4)), *(threads.submit(read),) * 2]:
            job.result(PATIENCE)
    assert len(got) == len(set(got)) == wanted


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"topic": "a b"}, "cannot name a topic"),
        ({"topic": "x" * 200}, "cannot name a topic"),
        ({"priority": messages.PRIORITY_UNKNOWN}, "has no priority"),
        ({"key": "k" * 300}, "more than 200 bytes"),
        ({"lives_seconds": -1.0}, "lives -1.0 s"),
        ({"at_seconds": math.nan}, "is of nan s"),
        ({"text": "x" * (1 << 20)}, "leave arrays in files"),
    ],
)
def test_what_is_no_record_is_refused_with_all_that_came_with_it(
    opened: Opener, given: dict[str, object], why: str
) -> None:
    bus = opened()
    with pytest.raises(ContractError, match=why):
        bus.publish([said("good"), said(**{"text": "bad", **given})])  # type: ignore[arg-type]
    assert bus.counts(TOPIC).records == 0
    with pytest.raises(ContractError, match="cannot name a group"):
        bus.subscribe(TOPIC, "")


def test_a_record_of_a_newer_form_is_refused(opened: Opener) -> None:
    envelope = said("new")
    envelope.version = 2
    with pytest.raises(ContractError, match="version 2"):
        opened().publish([envelope])
