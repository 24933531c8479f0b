"""A model's own configuration after a cut: found by trial, kept only if it rebuilds the very same network.

Models of `transformers` are rebuilt from a configuration (`intermediate_size`, `num_attention_heads`, ...).
Which of its numbers must follow a cut is not looked up by name: every integer that equals an old size is a
candidate, a network is built from the changed configuration, and its shapes and outputs decide.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from esper.anatomy import Anatomy
from esper.anatomy.cut import cut, put_back
from esper.anatomy.graph import copied, undisturbed
from esper.anatomy.proof import Inputs, same_outputs
from esper.anatomy.twin import plain
from esper.arrays import BoolArray
from esper.emrakul.plan import alike
from esper.errors import SurgeryError

UNSAID = "the configuration cannot say it"
"""How the reason begins for which a group stays that could go from a network without a configuration."""

_MOST_CHANGED, _MOST_TRIED, _MOST_SHAPED, _MOST_BUILT = 3, 200, 6, 48

Place = tuple[str | int, ...]
"""Where a number stands in a configuration: attribute, then attributes of parts or positions in lists."""
Changes = Mapping[Place, int]


@dataclass(frozen=True)
class Description:
    """Whether the model's configuration says what the network is now.

    Attributes:
        is_complete: a network built from it has the cut shapes and, with the weights, the same outputs.
        changes: new numbers by their place in the configuration (`text_config.intermediate_size`).
        why: if not, what it cannot say.
    """

    is_complete: bool
    changes: Mapping[str, int]
    why: str = ""

    def save(self, model: Any, directory: Path) -> None:
        """Saves with the model's own `save_pretrained`."""
        model.save_pretrained(directory)


def has_configuration(model: nn.Module) -> bool:
    """Is it rebuilt from a configuration, as `type(model)(model.config)`?"""
    return hasattr(getattr(model, "config", None), "to_dict") and hasattr(model, "save_pretrained")


def wordless(model: nn.Module) -> Description | None:
    """What a configuration says of a network that has lost layers; None if there is none."""
    if not has_configuration(model):
        return None
    return Description(False, {}, "layers were removed, and no number in it says which")


def describe(model: nn.Module, anatomy: Anatomy, keep: BoolArray, inputs: Inputs) -> Description | None:
    """Makes the configuration of a network that was just cut say its new sizes, if it can.

    Args:
        model: the cut network; only its configuration is changed.
        anatomy: the network before the cut.
        keep: the units that stayed, bool [units].
        inputs: inputs to compare outputs on.

    Returns:
        None if the network has no configuration.
    """
    if not has_configuration(model):
        return None
    if why := _unbuildable(model):
        return Description(False, {}, why)
    classes = [groups for groups in alike(anatomy) if _changed(anatomy, keep, groups)]
    for groups in classes:
        if why := _unequal(anatomy, keep, groups):
            return Description(False, {}, why)
    found: list[list[Changes]] = []
    for groups in classes:
        ways = _ways(model, anatomy, keep, groups)
        if not ways:
            name = anatomy.groups[groups[0]].name
            return Description(False, {}, f"no number in it stands for the width of {name}")
        found.append(ways)
    expected, others = _outputs(model, inputs), ""
    for together in islice(product(*found), _MOST_BUILT):
        changes = {place: value for way in together for place, value in way.items()}
        if not _is_the_same(model, changes, expected, inputs):
            others = others or _stands_for_more(model, changes)
            continue
        old = {place: _get(model.config, place) for place in changes}
        _put(model.config, changes)
        if same_outputs(_outputs(model, inputs), expected):  # its code may read the configuration as it runs
            return Description(True, {".".join(map(str, p)): v for p, v in changes.items()})
        _put(model.config, old)
    return Description(
        False, {}, others or "a network built from the changed numbers computes something else"
    )


def describable(model: nn.Module, anatomy: Anatomy, inputs: Inputs, allowed: BoolArray) -> dict[str, str]:
    """Groups whose width the configuration cannot say, and why: one unit of each is cut on a copy.

    Groups that are alike (`layers.0.mlp`, `layers.1.mlp`) are tried together; those that are not `allowed`
    (bool [groups]) are left out.
    """
    refused: dict[str, str] = {}
    twin = copied(model)
    for groups in alike(anatomy):
        if not all(allowed[number] and anatomy.groups[number].width > 1 for number in groups):
            continue
        keep = np.ones(anatomy.num_units, np.bool_)
        keep[anatomy.offsets[1:][groups] - 1] = False
        configuration = copy.deepcopy(twin.config)
        try:
            result = cut(twin, anatomy, keep, inputs)
        except SurgeryError as error:
            refused.update({anatomy.groups[number].name: str(error) for number in groups})
            continue
        described = describe(twin, anatomy, keep, inputs)
        vars(twin.config).update(vars(configuration))
        put_back(twin, model, result)
        if described is not None and not described.is_complete:
            why = f"{UNSAID}: {described.why}; pruning.plan.configurable = false lets it go"
            refused.update({anatomy.groups[number].name: why for number in groups})
    return refused


def _unbuildable(model: nn.Module) -> str:
    """Why no network of the class can be built from the configuration as it is; "" if one can."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            state = type(model)(copy.deepcopy(model.config)).state_dict()
    except Exception as error:  # noqa: BLE001  a constructor may want more than a configuration
        return f"no {type(model).__name__} can be built from it alone ({type(error).__name__}: {error})"
    missing = model.state_dict().keys() - state.keys()
    return f"a {type(model).__name__} built from it has no {min(missing)}" if missing else ""


def _stands_for_more(model: nn.Module, changes: Changes) -> str:
    """Which tensor that stayed as it is changes with these numbers, too; "" if none does."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    built = _shapes(model, changes, own) or own
    other = next((name for name, shape in own.items() if built[name] != shape), "")
    numbers = " and ".join(".".join(map(str, place)) for place in changes)
    return f"{numbers} stands for {other}, too, which is cut by itself" if other else ""


def _changed(anatomy: Anatomy, keep: BoolArray, groups: Sequence[int]) -> bool:
    return any(not keep[anatomy.unit_slice(number)].all() for number in groups)


def _unequal(anatomy: Anatomy, keep: BoolArray, groups: Sequence[int]) -> str:
    left = {int(keep[anatomy.unit_slice(number)].sum()): anatomy.groups[number].name for number in groups}
    if len(left) == 1:
        return ""
    (one, first), (two, second), *_ = left.items()
    return f"{first} has {one} units and {second} has {two}, and one number stands for both"


def _ways(model: nn.Module, anatomy: Anatomy, keep: BoolArray, groups: Sequence[int]) -> list[Changes]:
    """Changes of the configuration that give the tensors of these groups their new shapes, fewest first."""
    tensors = {m.tensor for number in groups for m in anatomy.groups[number].members}
    shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if name in tensors}
    before = {t.name: t.shape for t in anatomy.tensors if t.name in shapes}
    options = _telling(model, _candidates(model.config, _sizes(anatomy, keep, groups)), before)
    ways: list[Changes] = []
    for chosen in islice(_combinations(options), _MOST_TRIED):
        if any(set(way.items()) <= set(chosen) for way in ways):
            continue  # what it adds is not needed
        if _shapes(model, dict(chosen), shapes) == shapes:
            ways.append(dict(chosen))
        if len(ways) == _MOST_SHAPED:
            break
    return ways


def _telling(
    model: nn.Module, options: Mapping[Place, list[int]], before: Mapping[str, tuple[int, ...]]
) -> dict[Place, list[int]]:
    """The candidates that change these shapes; or that do not go alone, if they are numbers now."""

    def tells(place: Place, value: int) -> bool:
        shapes = _shapes(model, {place: value}, before)
        return shapes != before and (shapes is not None or _get(model.config, place) is not None)

    told = {place: [value for value in values if tells(place, value)] for place, values in options.items()}
    return {place: values for place, values in told.items() if values}


def _sizes(anatomy: Anatomy, keep: BoolArray, groups: Sequence[int]) -> dict[str, set[tuple[int, int]]]:
    """(old, new) numbers of units, sizes of axes, and coordinates per unit, which do not change."""
    group = anatomy.groups[groups[0]]
    left = int(keep[anatomy.unit_slice(groups[0])].sum())
    shapes, after = {t.name: t.shape for t in anatomy.tensors}, anatomy.kept_shapes(keep)
    axes = {(shapes[m.tensor][m.axis], after[m.tensor][m.axis]) for m in group.members}
    each = {(m.index.shape[1], m.index.shape[1]) for m in group.members}
    return {"units": {(group.width, left)}, "axes": axes, "each": each}


def _candidates(config: Any, sizes: Mapping[str, set[tuple[int, int]]]) -> dict[Place, list[int]]:
    """For every number that may have to follow: what it could become."""
    options: dict[Place, list[int]] = {}
    for place, value in _numbers(config):
        if value is None:
            new = [after for kind in ("axes", "each") for _, after in sorted(sizes[kind])]
        else:
            new = [after for before, after in sorted(sizes["axes"]) if value == before]
            new += [value // b * a for b, a in sizes["units"] if value % b == 0 and 0 < value // b <= 64]
        if new := [n for n in dict.fromkeys(new) if n != value]:
            options[place] = new
    return options


def _numbers(config: Any, above: Place = ()) -> Iterator[tuple[Place, int | None]]:
    """Integers (and what is unset) in a configuration and its parts; lists position by position."""
    for name, value in vars(config).items():
        place = (*above, name)
        if name.startswith("_") or isinstance(value, bool) or name.endswith(("_id", "_ids")):
            continue
        if value is None or (isinstance(value, int) and value > 1):
            yield place, value
        elif isinstance(value, list):
            yield from (((*place, n), v) for n, v in enumerate(value) if type(v) is int and v > 1)
        elif hasattr(value, "to_dict"):
            yield from _numbers(value, place)


def _combinations(options: Mapping[Place, list[int]]) -> Iterator[tuple[tuple[Place, int], ...]]:
    for size in range(1, _MOST_CHANGED + 1):
        for places in combinations(options, size):
            for values in product(*(options[place] for place in places)):
                yield tuple(zip(places, values, strict=True))


def _shapes(
    model: nn.Module, changes: Changes, asked: Mapping[str, Any]
) -> Mapping[str, tuple[int, ...]] | None:
    """The shapes of some tensors in a network built from the changed configuration; None if it lacks one."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            state = type(model)(_with(model.config, changes)).state_dict()
    except Exception:  # noqa: BLE001  a constructor may raise anything on numbers that do not go together
        return None
    if not asked.keys() <= state.keys():
        return None
    return {name: tuple(state[name].shape) for name in asked}


def _is_the_same(model: nn.Module, changes: Changes, expected: list[Tensor], inputs: Inputs) -> bool:
    """Does a network built from the changed configuration compute the same with the same weights?"""
    first = next(model.parameters())
    try:
        with torch.random.fork_rng(devices=[]):
            built = type(model)(_with(model.config, changes)).to(first.device, first.dtype)
        built.load_state_dict(model.state_dict(), strict=True)
        return same_outputs(_outputs(built, inputs), expected)
    except Exception:  # noqa: BLE001  so may its constructor and forward; then it is another network
        return False


def _outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with undisturbed(model), torch.no_grad():
        output = plain(model(*inputs.args, **inputs.kwargs))
    return [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def _with(config: Any, changes: Changes) -> Any:
    changed = copy.deepcopy(config)
    _put(changed, changes)
    return changed


def _put(config: Any, changes: Changes) -> None:
    for place, value in changes.items():
        owner = _get(config, place[:-1])
        if isinstance(place[-1], int):
            owner[place[-1]] = value
        else:
            setattr(owner, place[-1], value)


def _get(config: Any, place: Place) -> Any:
    for step in place:
        config = config[step] if isinstance(step, int) else getattr(config, step)
    return config
