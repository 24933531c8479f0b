"""One process or several: the one place that asks it, where a run begins or goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn

from esper.kasmina import LiveNetwork
from esper.session.admission import RunRequest
from esper.session.assembly import Assembly
from esper.session.following import Follower
from esper.session.known import known_of
from esper.session.leading import Leader
from esper.session.ranks import Ranks
from esper.session.session import Session
from esper.session.shared import TEACH, looked_at_together
from esper.session.standing import of_request
from esper.session.undoing import undone_on_error


@contextmanager
def refused_by_all(model: nn.Module) -> Iterator[None]:
    """What is refused here is refused by all ranks of the network, if there are several."""
    try:
        yield
    except Exception as refusal:
        ranks = Ranks.of(model)
        if ranks is not None:
            ranks.refuse(refusal)
        raise


def on_all_ranks(
    asked: RunRequest, call: str, said: Mapping[str, Any], begin: Callable[[], Session]
) -> Session:
    """Begins a run, or goes on with one: on rank 0, which the others follow.

    Args:
        asked: what the script has given.
        call: that it has made.
        said: what else it has said, to be the same on all ranks.
        begin: makes the session of rank 0, or of the only process.
    """
    ranks, note = asked.ranks, partial(of_request, asked, call, **said)
    # A teacher that is refused, or whose pupil is, is what it was before.
    with nullcontext() if asked.teacher is None else undone_on_error(asked.teacher.let_go):
        if ranks is None:
            return begin()
        if ranks.number > 0:
            return Follower(asked, ranks, note)
        return ranks.lead(note, begin, lambda session: None if session is None else known_of(session))


def network_of(
    asked: RunRequest,
    sample: Any,
    *,
    layers: bool,
    free: frozenset[tuple[int, int]],
    followers: Mapping[str, str] | None,
    is_coupled: bool,
) -> LiveNetwork:
    """Looks at the network, on all ranks; see `LiveNetwork`."""
    seen: dict[str, Any] = {"layers": layers, "free": free, "followers": followers, "is_coupled": is_coupled}
    given = (asked.model, asked.optimizer, sample, asked.loss, asked.companions)
    network: LiveNetwork
    if asked.ranks is None:
        network = LiveNetwork(*given, blueprints=asked.blueprints, **seen)
    else:
        network = looked_at_together(asked.ranks, *given, blueprints=asked.blueprints, **seen)
    for optimizer in asked.optimizers:
        network.adopt(optimizer)
    return network


def session_of(asked: RunRequest, parts: Assembly) -> Session:
    """The session of rank 0, or of the only process."""
    return Session(parts) if asked.ranks is None else Leader(parts, asked.ranks, asked.generators)


def teach(session: Session, asked: RunRequest) -> None:
    """Lets the given teacher begin, if there is one, on all ranks."""
    if asked.teacher is None:
        return
    begin = partial(session.teaching.change, asked.teacher)
    if asked.ranks is None:
        begin()
    else:
        asked.ranks.order(TEACH, {}, begin)
