"""The anatomy as a value: what it costs, what it saves, and how it is written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from esper.anatomy.structure import Anatomy
from esper.errors import MaskError, UnknownPathError
from esper.leyline import decode, encode
from tests.anatomy.cutting import anatomy_of, half
from tests.anatomy.networks import ZOO

SOME = ["plain", "resnet8", "mobile", "shufflenet", "gpt", "rotary-halves", "experts"]


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_has_the_groups_that_it_must_have(name: str) -> None:
    case, anatomy = ZOO[name], anatomy_of(name)
    assert len(anatomy.groups) == case.groups
    assert sum(group.kind == "head" for group in anatomy.groups) == case.heads
    reasons = [axis.reason for axis in anatomy.frozen]
    assert all(any(operator in reason for reason in reasons) for operator in case.frozen_by)
    assert not [reason for reason in reasons if "not followed" in reason]


@pytest.mark.parametrize("name", ZOO)
def test_counted_parameters_are_those_of_the_network(name: str) -> None:
    assert anatomy_of(name).parameters() == sum(p.numel() for p in ZOO[name].network().parameters())


@pytest.mark.parametrize("name", ZOO)
def test_units_own_their_coordinates_alone(name: str) -> None:
    taken: dict[tuple[str, int], np.ndarray] = {}
    for group in anatomy_of(name).groups:
        for member in group.members:
            assert member.index.shape[0] == group.width
            known = taken.get((member.tensor, member.axis), np.empty(0, np.int64))
            taken[member.tensor, member.axis] = np.concatenate([known, member.index.ravel()])
    assert all(np.unique(indices).size == indices.size for indices in taken.values())


def test_flops_of_a_plain_network_are_those_of_a_hand_count() -> None:
    macs = 16 * 3 * 9 * 16 * 16 + 32 * 16 * 9 * 8 * 8 + 128 * 40 + 40 * 10
    assert anatomy_of("plain").flops() == 2 * macs


@pytest.mark.parametrize("name", ZOO)
def test_json_brings_back_the_same_anatomy(name: str) -> None:
    anatomy = anatomy_of(name)
    again = decode(Anatomy, json.loads(json.dumps(encode(anatomy))))
    assert again.digest == anatomy.digest
    keep = half(anatomy)
    assert again.flops(keep) == anatomy.flops(keep)
    assert again.kept_shapes(keep) == anatomy.kept_shapes(keep)


_PRINT_DIGESTS = """
import warnings; warnings.simplefilter("ignore")
from esper import inspect
from tests.anatomy.networks import ZOO
for name in ("resnet8", "gpt", "densenet", "rotary-halves", "shufflenet"):
    print(name, inspect(ZOO[name].network(), ZOO[name].input()).digest)
"""


def test_a_process_that_hashes_otherwise_finds_the_same_anatomy() -> None:
    root = Path(__file__).parents[2]
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-c", _PRINT_DIGESTS],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    assert there
    assert there == [f"{name} {anatomy_of(name).digest}" for name in (line.split()[0] for line in there)]


def test_a_unit_has_a_name_that_people_can_read() -> None:
    anatomy = anatomy_of("plain")
    assert anatomy.unit_id(17) == "3#1"
    assert anatomy.group_named("3") == 1
    assert anatomy.unit_slice(1) == slice(16, 48)


def test_an_unknown_group_is_refused_with_names_that_exist() -> None:
    with pytest.raises(UnknownPathError, match="begin with: 0, 3, 7"):
        anatomy_of("plain").group_named("nowhere")


@pytest.mark.parametrize("keep", [np.ones(3, np.bool_), np.ones(88, np.int64)])
def test_a_mask_that_does_not_fit_is_refused(keep: np.ndarray) -> None:
    with pytest.raises(MaskError, match="bool array of shape"):
        anatomy_of("plain").flops(keep)


def test_an_anatomy_without_units_costs_the_same_whatever_the_mask() -> None:
    anatomy = Anatomy((), (), (), ())
    assert anatomy.num_units == 0
    assert anatomy.flops(np.ones(0, np.bool_)) == 0
    assert anatomy.parameters() == 0
