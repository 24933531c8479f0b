"""The state of every source of randomness, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from esper.errors import CheckpointError

Generator = random.Random | np.random.Generator | torch.Generator
NO_GENERATORS: Mapping[str, Generator] = MappingProxyType({})


def capture_rng(generators: Mapping[str, Generator] = NO_GENERATORS) -> dict[str, Any]:
    """The global states of Python, NumPy, torch and every CUDA device, and those of named generators.

    Args:
        generators: those that training draws from beside the global ones, such as a data loader's.

    Returns:
        Plain values and tensors that the codec stores.
    """
    is_initialized: Callable[[], bool] = torch.cuda.is_initialized
    is_cuda = torch.cuda.is_available() and is_initialized()  # asking for a state would start CUDA
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 (the global state is what is captured)
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if is_cuda else [],
        "generators": {name: _capture(generator) for name, generator in generators.items()},
    }


def check_rng(state: Mapping[str, Any], generators: Mapping[str, Generator]) -> None:
    """Refuses what `restore_rng` could not put back; changes nothing.

    Raises:
        CheckpointError: other generators or fewer CUDA devices than when it was taken.
    """
    if set(state["generators"]) != set(generators):
        raise CheckpointError(
            f"The checkpoint holds the random generators {sorted(state['generators'])}, and "
            f"{sorted(generators)} were given. Pass the same ones under the same names; without them the run "
            f"would not continue as it was."
        )
    devices = torch.cuda.device_count() if state["cuda"] else 0
    if len(state["cuda"]) > devices:
        raise CheckpointError(
            f"The checkpoint holds the random states of {len(state['cuda'])} CUDA devices and this process "
            f"has {devices}, so the run cannot continue bit for bit. Resume on as many devices, or restore "
            f"without randomness (`with_rng=False`)."
        )


def restore_rng(state: Mapping[str, Any], generators: Mapping[str, Generator] = NO_GENERATORS) -> None:
    """Puts back what `capture_rng` took.

    Raises:
        CheckpointError: it does not fit, see `check_rng`; nothing was changed.
    """
    check_rng(state, generators)
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002 (the global state is what is restored)
    torch.set_rng_state(state["torch"].clone())
    for device, cuda_state in enumerate(state["cuda"]):
        torch.cuda.set_rng_state(cuda_state.clone(), device)
    for name, generator in generators.items():
        _restore(generator, state["generators"][name])


@contextmanager
def drawn_apart(number: int) -> Iterator[None]:
    """Draws from `number` inside, and goes on outside as if nothing had been drawn."""
    before = capture_rng()
    _seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 (what runs inside may draw from the global state)
    try:
        yield
    finally:
        restore_rng(before)


def _seed(number: int) -> None:
    """As `torch.manual_seed`, of the devices that are in use.

    That one leaves the number for all others to begin with, whenever that is, in the place of what training
    has left for them; and it takes a stack trace for each kind, which is longer than all else here.
    """
    torch.default_generator.manual_seed(number)
    for kind in (torch.cuda, torch.xpu, torch.mtia):
        if kind.is_initialized():
            kind.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)


def _capture(generator: Generator) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return dict(generator.bit_generator.state)
    return generator.get_state()


def _restore(generator: Generator, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state.clone())
