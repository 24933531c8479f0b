"""What the ranks of one network compare where they meet: the call, how far they are, and what they hold."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from esper.anatomy.graph import shared_parameters, sums_of_bits
from esper.checkpoint import capture_rng
from esper.kasmina import LiveNetwork
from esper.leyline import content_id, encode
from esper.session.admission import RunRequest, check_optimizer
from esper.session.growing import Growing
from esper.session.metrics import Metrics
from esper.session.ranks import Note
from esper.session.teaching import Teaching

METRICS, RANDOM, COUNTED = "metrics", "random", "counted"
"""What a rank tells beside what has to be the same everywhere."""


def of_request(asked: RunRequest, call: str, **terms: Any) -> Note:
    """Before a run begins or goes on.

    Args:
        asked: what the script has given.
        call: that it has made.
        terms: what else it has said.

    Raises:
        ConfigError: the optimizer is of another network.
    """
    check_optimizer(asked.model, asked.optimizer, asked.loss)
    same = {
        "the call": call,
        **{f"`{name}`": value for name, value in terms.items()},
        "the length of the run": encode(asked.pace),
        "`config`": "" if asked.config is None else content_id(asked.config.model_dump(mode="json")),
        "the optimizer": type(asked.optimizer).__name__,
        "the teacher": None if asked.teacher is None else asked.teacher.digest,
        "`blueprints`": sorted(asked.blueprints),
        "`policy`": None if asked.policy is None else type(asked.policy).__name__,
    }
    held = _weights(shared_parameters(asked.model))
    return {"same": same, "held": held, RANDOM: capture_rng(asked.generators)}


def of_session(
    call: str,
    step: int,
    network: LiveNetwork,
    growing: Growing,
    teaching: Teaching,
    metrics: Metrics,
    generators: Mapping[str, Any],
) -> Note:
    """Within a run, where a script has made a call.

    Args:
        call: in words.
        step: optimizer steps made.
        network: of this rank.
        growing: its seeds.
        teaching: its teacher.
        metrics: that were measured on it.
        generators: from which it draws beside the global ones.
    """
    tracks, weights = growing.stand()
    held = {
        "the structure of the network": network.anatomy.digest,
        "its mask": hashlib.sha256(network.masks.keep.tobytes()).hexdigest(),
        "how far its seeds are, and how often session.loss taught them": content_id(tracks),
        **_weights({**shared_parameters(network.given), **weights}),
    }
    return {
        "same": {"the call": call, "the number of optimizer steps": step, "the teacher": teaching.state()},
        "held": held,
        METRICS: metrics.state(),
        RANDOM: capture_rng(generators),
    }


def joined(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The metrics of all ranks as those of one: the mean over the ranks that have measured a metric."""
    names = dict.fromkeys(name for state in states for name in state["numbers"])
    values = {name: [s["numbers"][name] for s in states if name in s["numbers"]] for name in names}
    numbers = {name: _mean(measured) for name, measured in values.items()}
    return {"numbers": numbers, "step": max(state["step"] for state in states)}


def are_apart(states: Sequence[Mapping[str, Any]], metric: str) -> bool:
    """Whether ranks have measured other numbers than each other."""
    return len({repr(state["numbers"][metric]) for state in states if metric in state["numbers"]}) > 1


def _mean(values: Sequence[float]) -> float:
    first = values[0]
    if all(value == first for value in values):
        return first
    return math.fsum(values) / len(values) if all(map(math.isfinite, values)) else math.nan


def _weights(shared: Mapping[str, Tensor]) -> dict[str, int]:
    """A number for every parameter that is another one if a bit of it is; read where the parameters are."""
    numbers = sums_of_bits(shared.values())
    return {f"the weights of {name}": number for name, number in zip(shared, numbers, strict=True)}
