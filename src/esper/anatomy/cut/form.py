"""The form of a cut network: what a freshly built one must change before the cut weights fit into it.

Weights say their shapes themselves. What they do not say is small and plain: attributes of modules that
repeat a size, modules that have become another class, and buffers that no state dict holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from esper.anatomy.cut.layers import Answer, RemovedModule, become_removed
from esper.anatomy.cut.modules import CutMultiheadAttention, set_attribute
from esper.anatomy.graph import named_tensors
from esper.anatomy.proof import Undo, resize, select
from esper.errors import CheckpointCorrupt, ConfigError, SurgeryError
from esper.leyline import Via

Kept = Mapping[str, Mapping[int, Tensor]]
_CLASSES: Mapping[str, type[nn.Module]] = {
    found.__name__: found for found in (CutMultiheadAttention, RemovedModule)
}
_PLAIN = (bool, int, float, str, type(None))


def _tagged(value: Any) -> Any:
    """JSON knows no tuples, and no numbers that are not finite."""
    if isinstance(value, (tuple, list)):
        items = [_tagged(item) for item in value]
        return {"tuple": items} if isinstance(value, tuple) else items
    return {"float": str(value)} if isinstance(value, float) and not isfinite(value) else value


def _untagged(value: Any) -> Any:
    if isinstance(value, dict):
        return float(value["float"]) if "float" in value else tuple(map(_untagged, value["tuple"]))
    return [_untagged(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Snapshot:
    """A network's modules with their class and plain attributes, and its tensors with their shapes."""

    classes: Mapping[str, type[nn.Module]]
    attributes: Mapping[str, Mapping[str, Any]]
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, model: nn.Module) -> Snapshot:
        modules = dict(model.named_modules(remove_duplicate=False))
        return cls(
            {path: type(module) for path, module in modules.items()},
            {path: _attributes(module) for path, module in modules.items()},
            {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()},
        )


@dataclass(frozen=True)
class Form:
    """What a cut changed beside values.

    Attributes:
        shapes: (before, after) of every tensor whose shape changed.
        attributes: new values by module and attribute.
        classes: new class by module; those that Esper brings along.
        kept: coordinates that stayed, by axis, of buffers that no state dict holds.
    """

    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    attributes: Mapping[str, Mapping[str, Annotated[Any, Via(Any, _tagged, _untagged)]]]
    classes: Mapping[str, str]
    kept: Mapping[str, Mapping[int, Sequence[int]]]

    @classmethod
    def between(cls, before: Snapshot, model: nn.Module, cuts: Sequence[Kept]) -> Form:
        """The form of a network that has been cut since `before`.

        Args:
            before: the network as it was built.
            model: the network as it is.
            cuts: the coordinates that each cut left, in the order of the cuts.

        Raises:
            SurgeryError: modules have changed in a way that cannot be written down.
        """
        after = Snapshot.of(model)
        classes = {
            path: found for path, found in after.classes.items() if found is not before.classes.get(path)
        }
        unknown = {path: found for path, found in classes.items() if found.__name__ not in _CLASSES}
        gone = _inside([p for p, found in classes.items() if found is RemovedModule], before.classes)
        if unknown or after.classes.keys() != before.classes.keys() - gone:
            others = (before.classes.keys() ^ after.classes.keys()) - gone
            path = next(iter(unknown), "") or next(iter(others))
            raise SurgeryError(
                f"Module {path!r} is another one than when the network was built, so weights alone cannot be "
                "loaded into a fresh network. Save it as a program instead (.pt2), which needs no class."
            )
        # No state dict holds these, so what they lost must be told.
        hidden = after.shapes.keys() - model.state_dict().keys()
        return cls(
            {
                name: (before.shapes[name], shape)
                for name, shape in after.shapes.items()
                if before.shapes[name] != shape
            },
            {path: changed for path in after.classes if (changed := _changed(before, after, path))},
            {path: found.__name__ for path, found in classes.items()},
            {name: axes for name, axes in _composed(cuts).items() if name in hidden},
        )

    def shape(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Gives a fresh network this form and these weights.

        Args:
            model: a network built as the cut one was, uncut; on the meta device it costs no time to build,
                and its tensors come to lie where the weights are.
            weights: every entry of the cut network's state dict (of tied tensors one is enough).

        Raises:
            CheckpointCorrupt: the network is another one, or a weight is missing, too many or of another
                shape; the network is left untouched.
            ConfigError: a tensor on the meta device is no weight, so nothing tells its values.
        """
        self._check(model, weights)
        _leave_meta_device(model, weights)
        undo = Undo()  # nothing below fails
        tensors = named_tensors(model)
        for name, tensor in tensors.items():
            if name in weights:
                _fill(tensor, weights[name])
        for name, axes in self.kept.items():
            left = {axis: torch.tensor(index, dtype=torch.long) for axis, index in axes.items()}
            resize(tensors[name], select(tensors[name], left), undo)
        modules = dict(model.named_modules(remove_duplicate=False))
        for path, name in self.classes.items():
            if _CLASSES[name] is RemovedModule:
                become_removed(modules[path], Answer.of(self.attributes[path]), undo)
            modules[path].__class__ = _CLASSES[name]
        for path, changed in self.attributes.items():
            for attribute, value in changed.items():
                set_attribute(modules[path], attribute, value, undo)

    def _check(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        tensors, state = named_tensors(model), model.state_dict()
        # Of a tied tensor one name is enough.
        present = {id(tensors[name]) for name in weights if name in tensors}
        gone = _inside([p for p, name in self.classes.items() if name == RemovedModule.__name__], state)
        missing = [
            n for n in state if n not in weights and n not in gone and id(tensors.get(n)) not in present
        ]
        surplus = sorted(weights.keys() - tensors.keys())
        if missing or surplus:
            what = f"misses {missing[0]!r}" if missing else f"holds {surplus[0]!r}, which the network has not"
            raise CheckpointCorrupt(
                f"These weights are of another network: {type(model).__name__} was given, and the file "
                f"{what}. Build the model exactly as the one that was cut. Nothing was changed."
            )
        for name, tensor in tensors.items():
            old, new = self.shapes.get(name, (tuple(tensor.shape),) * 2)
            if tuple(tensor.shape) != old or (name in weights and tuple(weights[name].shape) != new):
                has = tuple(weights[name].shape) if name in weights else "nothing"
                raise CheckpointCorrupt(
                    f"{name} of the given {type(model).__name__} has shape {tuple(tensor.shape)} and the "
                    f"file holds {has}; expected {old} and {new}. Build the model exactly as the one that "
                    "was cut, before any cut. Nothing was changed."
                )
        paths = dict(model.named_modules(remove_duplicate=False))
        lost = [path for path in (*self.attributes, *self.classes) if path not in paths]
        if (
            lost
            or not self.classes.keys() <= paths.keys()
            or not set(self.classes.values()) <= _CLASSES.keys()
        ):
            raise CheckpointCorrupt(
                f"The form names what the given {type(model).__name__} does not have: "
                f"{(lost or sorted(self.classes.values()))[0]!r}. Nothing was changed."
            )


def _inside(removed: Sequence[str], names: Iterable[str]) -> set[str]:
    """Those names that lie in removed modules, which have nothing inside any more."""
    return {name for name in names if any(name.startswith(f"{path}.") for path in removed)}


def _leave_meta_device(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Puts memory under tensors that have none; tied ones stay one."""
    tensors = named_tensors(model)
    filled = {id(tensors[name]): weights[name].device for name in weights}
    untold = [name for name, tensor in tensors.items() if tensor.is_meta and id(tensor) not in filled]
    if untold:
        raise ConfigError(
            f"{untold[0]} of the given {type(model).__name__} lies on the meta device and is no weight, so "
            "no file holds its values. Build the model on the CPU. Nothing was changed."
        )
    made: dict[int, Tensor] = {}
    for module in model.modules():
        own = {
            **dict(module.named_parameters("", recurse=False, remove_duplicate=False)),
            **dict(module.named_buffers("", recurse=False, remove_duplicate=False)),
        }
        for name, tensor in own.items():
            if tensor.is_meta:
                empty = torch.empty_like(tensor, device=filled[id(tensor)])
                is_parameter = isinstance(tensor, nn.Parameter)
                new = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                # One new tensor in all places of a tied one.
                setattr(module, name, made.setdefault(id(tensor), new))


def _fill(tensor: Tensor, value: Tensor) -> None:
    value = value.to(tensor.device, tensor.dtype)
    if value.shape == tensor.shape:
        with torch.no_grad():
            tensor.copy_(value)
    else:
        resize(tensor, value.clone(), Undo())


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name != "training" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(isinstance(item, _PLAIN) for item in value)
    return isinstance(value, _PLAIN)


def _changed(before: Snapshot, after: Snapshot, path: str) -> dict[str, Any]:
    old = before.attributes[path]
    return {
        name: value
        for name, value in after.attributes[path].items()
        if name not in old or (type(old[name]), old[name]) != (type(value), value)
    }


def _composed(cuts: Sequence[Kept]) -> dict[str, dict[int, list[int]]]:
    """What several cuts in a row left, counted in the coordinates from before the first."""
    left: dict[str, dict[int, Tensor]] = {}
    for kept in cuts:
        for name, axes in kept.items():
            for axis, index in axes.items():
                first = left.setdefault(name, {}).get(axis)
                # `index` counts among the coordinates that the cuts before have left.
                left[name][axis] = index if first is None else first[index]
    return {name: {axis: index.tolist() for axis, index in axes.items()} for name, axes in left.items()}
