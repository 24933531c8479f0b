"""Units that normalizations run over: half of each group cut, as a program and in place, and what that moves.

Usage: python benchmarks/approximate.py [NAME ...] [--groups 4]

The networks are those of the coverage sweep (small, random weights; from `transformers`). For the first
groups of each: kind and width of the units, how far both forms of the cut network are from the masked one
whose normalizations run over what is left (in float64; in float32 where the network's code cannot compute in
float64), and how far the outputs move because of these statistics. What is neither proven nor refused would
be WRONG.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from architectures import PARTS
from architectures.case import Architecture
from esper.anatomy import Anatomy
from esper.anatomy.cut import cut, cut_program
from esper.anatomy.proof import Equivalence, Inputs
from esper.anatomy.units import inspect
from esper.arrays import BoolArray
from esper.batches import splits
from esper.errors import EsperError

NAMES = """gpt2 llama bert vit gpt-neox opt bloom qwen3 gemma2 olmo2 whisper swin dinov2 electra albert mamba
segformer mixtral qwen2-moe olmoe granite-moe deepseek-v3"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="networks; unless given, twenty-two")
    parser.add_argument("--groups", type=int, default=4, help="at most so many of each network")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print("| network | group | units | width | program | in place | outputs move by |")
    print("|---|---|---|---|---|---|---|")
    counts = {"program": [0, 0], "in place": [0, 0], "wrong": [0, 0]}
    for name in options.names or NAMES.split():
        architecture = PARTS["transformers"][name]
        anatomy = inspect(architecture.network().eval(), architecture.inputs(), allow_approximate=True)
        coupled = [number for number, group in enumerate(anatomy.groups) if group.coupling]
        for number in coupled[: options.groups]:
            _print_row(name, architecture, anatomy, number, counts)
    wrong = counts["wrong"][0]
    for form in ("program", "in place"):
        proven, asked = counts[form]
        print(f"\n{form}: {proven} of {asked} proven, {wrong} wrong in both forms, the rest refused")
    return 1 if counts["wrong"][0] else 0


def _print_row(
    name: str, architecture: Architecture, anatomy: Anatomy, number: int, counts: dict[str, list[int]]
) -> None:
    group = anatomy.groups[number]
    keep = np.ones(anatomy.num_units, np.bool_)
    keep[anatomy.unit_slice(number)][max(group.least, group.width - group.width // 2) :] = False
    args, kwargs, _ = next(splits(architecture.inputs(), with_target=False))
    probe, cells, moved = Inputs(args, kwargs), [], ""
    for form, how in (("program", _as_program), ("in place", _in_place)):
        made = _tried(partial(how, architecture, anatomy, keep, probe))
        counts[form][0] += isinstance(made, Equivalence)
        counts[form][1] += 1
        if isinstance(made, Equivalence):
            error = made.float32_error if made.float64_error is None else made.float64_error
            cells.append(f"{error:.1e}{'' if made.float64_error is not None else ' (float32)'}")
            moved = moved if made.approximation is None else f"{made.approximation:.1%}"
        else:
            cells.append(made)
            counts["wrong"][0] += made.startswith("**WRONG**")
    print(f"| {name} | {group.name} | {group.kind.value} | {group.width} | {' | '.join(cells)} | {moved} |")


def _tried(act: Callable[[], Equivalence]) -> Equivalence | str:
    try:
        return act()
    except EsperError as error:
        return f"refused: {str(error).split(' (line')[0].split('. ')[0][:90]}"
    except Exception as error:  # noqa: BLE001  whatever it is, it is not what was promised
        return f"**WRONG** {type(error).__name__}: {str(error)[:80]}"


def _as_program(architecture: Architecture, anatomy: Anatomy, keep: BoolArray, probe: Inputs) -> Any:
    return cut_program(architecture.network().eval(), anatomy, keep, probe).equivalence


def _in_place(architecture: Architecture, anatomy: Anatomy, keep: BoolArray, probe: Inputs) -> Any:
    return cut(architecture.network().eval(), anatomy, keep, probe).equivalence


if __name__ == "__main__":
    sys.exit(main())
