"""Whether a network is random where it should compute: also in eval mode, on the same input."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from esper.anatomy.graph import same_draws
from esper.anatomy.proof.compare import outputs_differ
from esper.anatomy.proof.observe import OUTPUTS, Subject
from esper.anatomy.proof.tolerance import QUICK_LIMIT

RANDOM = "The network is random even in eval mode"
"""How the reason begins."""
_RUNS = 4
"""So many runs are enough to see a coin that is tossed once."""


def why_random(subject: Subject) -> str:
    """That runs on the same input differ, so that no proof can be made, and what to do; '' if they do not.

    Every run begins with other states of the generators that code draws from; afterwards they are what they
    were.
    """
    with _generators_kept() as generators:
        runs = []
        for seed in range(_RUNS):
            for generator in generators:
                generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002  what the network's own code may draw from
            runs.append(subject.see(OUTPUTS))
    apart = max(outputs_differ(run, runs[0]) for run in runs[1:])
    if apart <= QUICK_LIMIT:
        return ""
    return (
        f"{RANDOM} (its own outputs differ by {apart:.2g} between runs on the "
        "same input), so no cut of it can be proven: let it draw (dropout, noise) only where "
        "`self.training` is set, or by an attribute that is off while Esper is attached. Nothing was changed."
    )


@contextmanager
def _generators_kept() -> Iterator[list[torch.Generator]]:
    """Torch's own generators; these, Python's and numpy's are afterwards what they were before."""
    generators = [torch.default_generator]
    if torch.cuda.is_initialized():
        generators += torch.cuda.default_generators
    states = [generator.get_state() for generator in generators]
    try:
        with same_draws():
            yield generators
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
