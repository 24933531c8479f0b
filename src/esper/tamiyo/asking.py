"""Asks a policy, and takes it for silent if it fails, thinks for too long, or says what is no command."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from esper.errors import ConfigError
from esper.tamiyo.policy import Command, Cull, Policy, SystemState, TryOut

_LONGEST_SECONDS = 2.0
_TAKEN = frozenset({"pattern", "blueprint"})
"""What a command says in fields of its own."""


def check_policy(given: Any) -> None:
    """Refuses what cannot be asked.

    Raises:
        ConfigError: it is no object with a method `decide`.
    """
    if given is None or (callable(getattr(given, "decide", None)) and not isinstance(given, type)):
        return
    what = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    raise ConfigError(
        f"policy= is {what}, and a policy is an object with a method decide(state). Nothing was changed. "
        'Give one, or name one of ours in the settings: config={"strategy": {"policy": "plateau"}}.'
    )


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
    if flaw := next(filter(None, map(_flaw, answer.result())), ""):
        return (), f"answered what is no command: {flaw}"
    return answer.result(), ""


def _flaw(command: object) -> str:
    """What keeps it from being a command; '' if nothing does."""
    if not isinstance(command, TryOut | Cull):
        return f"{command!r:.80} is neither a TryOut nor a Cull"
    given = vars(command)
    for name, value in given.items():
        if name != "options" and not isinstance(value, str):
            return f"{type(command).__name__} has {name}={value!r:.80}, which is no text"
    options = given.get("options", {})
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        return f"TryOut has options={options!r:.80}, which is no mapping of names"
    if both := sorted(_TAKEN & options.keys()):
        return f"TryOut has options with {both[0]!r}, which is a field of its own"
    return ""
