"""Asks a policy, and takes it for silent if it fails or thinks for too long."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from esper.tamiyo.policy import Command, Policy, SystemState

_LONGEST_SECONDS = 2.0


def ask(
    policy: Policy, state: SystemState, seconds: float = _LONGEST_SECONDS
) -> tuple[Sequence[Command], str]:
    """What a policy says, and why it is taken for saying nothing ('' if it said what it wanted).

    Args:
        policy: is asked in a thread of its own, which nobody waits for any longer than that.
        state: how the run is doing.
        seconds: how long it may think.
    """
    answer: Future[Sequence[Command]] = Future()

    def think() -> None:
        try:
            answer.set_result(tuple(policy.decide(state)))
        except Exception as error:  # noqa: BLE001 (a user's code; its failure is an answer)
            answer.set_exception(error)

    threading.Thread(target=think, name="policy", daemon=True).start()
    try:
        error = answer.exception(timeout=seconds)
    except TimeoutError:
        return (), f"did not answer within {seconds:g} s"
    if error is not None:
        return (), f"failed with {type(error).__name__}: {error}"
    return answer.result(), ""
