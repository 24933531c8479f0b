"""An optimizer's state through a cut: state that belongs to a coordinate goes with it.

No optimizer is known by name. A state tensor of its parameter's shape is element-wise, one of a single
element is about the whole; of any other the optimizer itself is asked what it holds
(`esper.anatomy.cut.optimizers.factored`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from esper.anatomy.cut.optimizers.factored import Layout, ask, ask_for_weights
from esper.anatomy.proof import Undo, select, spread_out
from esper.errors import SurgeryError


class StateLayouts:
    """How the state of one optimizer hangs on the axes of its parameters.

    Args:
        optimizer: any optimizer.
        names: its parameters and their names, for messages.
    """

    def __init__(self, optimizer: Optimizer, names: Mapping[Tensor, str]) -> None:
        self._optimizer = optimizer
        self._names = names
        self._by_rank: dict[int, Mapping[str, Layout] | SurgeryError] = {}
        self._elementwise = {
            key
            for parameter, key, value in self._entries()
            if isinstance(value, Tensor) and _is_plainly_elementwise(value, parameter)
        }

    def check(self) -> None:
        """Makes sure that all of it can follow a cut.

        Raises:
            SurgeryError: something in it does not belong to coordinates; it is named.
        """
        for parameter, key, value in self._entries():
            what = _why_opaque(value)
            if what:
                raise self._refusal(parameter, key, value, what)
        for parameter, key, value in self._entries():
            if isinstance(value, Tensor) and not _is_about_the_whole(value, parameter):
                layout = self._layout(parameter, key, value)
                if isinstance(layout, SurgeryError):
                    raise layout

    def of(self, parameter: Tensor) -> list[tuple[dict[str, Any], str, Tensor, Layout]]:
        """The state of a parameter that is known to have axes: where it is kept, key, value and layout."""
        state = self._optimizer.state.get(parameter, {})
        entries = []
        for key, value in state.items():
            if isinstance(value, Tensor) and not _is_about_the_whole(value, parameter):
                layout = self._layout(parameter, key, value)
                if isinstance(layout, Layout):
                    entries.append((state, key, value, layout))
        return entries

    def spread(self, parameter: Tensor, kept: Mapping[int, Tensor], shape: tuple[int, ...]) -> None:
        """Gives the state of a parameter that is still cut the shapes of before, with zeros in the gaps."""
        for state, key, value, layout in self.of(parameter):
            state[key] = spread_out(value, layout.on_state(kept), layout.shape(shape))

    def _entries(self) -> Iterator[tuple[Tensor, str, object]]:
        for parameter, state in self._optimizer.state.items():
            for key, value in state.items():
                yield parameter, key, value

    def _layout(self, parameter: Tensor, key: str, value: Tensor) -> Layout | SurgeryError:
        rank = parameter.dim()
        # A square state could be transposed as well. It counts as element-wise if another parameter, with
        # axes that cannot be mistaken, shows its key to be so.
        if value.shape == parameter.shape and key in self._elementwise:
            return Layout.elementwise(rank)
        if rank not in self._by_rank:
            self._by_rank[rank] = self._asked(parameter)
        known = self._by_rank[rank]
        if isinstance(known, SurgeryError):
            return known
        layout = known.get(key)
        if layout is None or layout.shape(parameter.shape) != tuple(value.shape):
            return self._refusal(parameter, key, value, "which does not belong to single coordinates")
        return layout

    def _asked(self, parameter: Tensor) -> Mapping[str, Layout] | SurgeryError:
        try:
            return ask(self._optimizer, parameter)
        except SurgeryError as error:  # kept: it is raised where a cut needs this state
            return error

    def _refusal(self, parameter: Tensor, key: str, value: object, why: str) -> SurgeryError:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        return SurgeryError(
            f"{type(self._optimizer).__name__} holds state {key!r}{shape} for "
            f"{self._names.get(parameter, 'a parameter')} of shape {tuple(parameter.shape)}, {why}, so it "
            "cannot follow a cut. Nothing was changed. Cut without this optimizer and start a new one, or "
            "train with one whose state is element-wise or factored by axis."
        )


def _is_about_the_whole(value: Tensor, parameter: Tensor) -> bool:
    """A step count, or another number about all of a parameter."""
    return value.numel() <= 1 and value.dim() != parameter.dim()


def _is_plainly_elementwise(value: Tensor, parameter: Tensor) -> bool:
    """Same shape, and no two axes that could be taken for each other."""
    return value.shape == parameter.shape and len(set(parameter.shape)) == parameter.dim()


def _why_opaque(value: object) -> str:
    """Why the layout of a value cannot be told from its shape, or ''."""
    if not isinstance(value, Tensor):
        has_tensors = any(isinstance(v, Tensor) and v.numel() > 1 for v in pytree.tree_leaves(value))
        return f"a {type(value).__name__} of tensors" if has_tensors else ""
    if type(value) not in (Tensor, nn.Parameter):
        return f"a {type(value).__name__}, which hides its layout"
    if value.numel() > 1 and not (value.is_floating_point() or value.is_complex()):
        kind = str(value.dtype).removeprefix("torch.")
        return f"of type {kind}, which is taken for values quantized in blocks"
    return ""


def cut_state(
    optimizer: Optimizer, names: Mapping[Tensor, str], kept: Mapping[str, Mapping[int, Tensor]], undo: Undo
) -> None:
    """Cuts the state of every parameter that is about to be cut, while parameters have their old shape.

    A mean over an axis that loses coordinates becomes the mean over those that stay, as if the others had
    been zero (which is what a mask makes them), so that the next step is that of the masked network.

    Args:
        optimizer: any optimizer whose state belongs to coordinates.
        names: the parameters and their names.
        kept: for every tensor that loses something, the coordinates that stay.
        undo: takes what is changed here back.

    Raises:
        SurgeryError: a state tensor cannot follow; nothing was changed.
    """
    if not any(kept.get(names.get(parameter, "")) for parameter in optimizer.state):
        return
    layouts = StateLayouts(optimizer, names)
    layouts.check()
    changes: list[tuple[dict[str, Any], str, Tensor]] = []
    for parameter in list(optimizer.state):
        axes = kept.get(names.get(parameter, ""))
        if not axes:
            continue
        for state, key, value, layout in layouts.of(parameter):
            # A mean over an axis grows by as much as the axis shrinks.
            factor = layout.growth({axis: parameter.shape[axis] / len(index) for axis, index in axes.items()})
            new = select(value, layout.on_state(axes))
            changes.append((state, key, new if factor == 1.0 else new * factor))
    # Nothing was changed so far, and from here on nothing refuses.
    for state, key, new in changes:
        undo.add(partial(state.__setitem__, key, state[key]))
        state[key] = new


def refusal_of(optimizer: Optimizer, names: Mapping[Tensor, str]) -> str:
    """Why the state that an optimizer holds now cannot follow a cut; '' if it can.

    Args:
        optimizer: any optimizer.
        names: its parameters and their names.
    """
    try:
        StateLayouts(optimizer, names).check()
    except SurgeryError as refusal:
        return str(refusal)
    return ""


def zero_state(optimizer: Optimizer, parameters: Mapping[Tensor, Mapping[int, Tensor]]) -> None:
    """Zeroes the state of coordinates, by parameter and axis; state that does not belong to any stays."""
    layouts = StateLayouts(optimizer, {})
    for parameter, axes in parameters.items():
        for _, _, value, layout in layouts.of(parameter):
            for axis, index in layout.on_state(axes).items():
                value.index_fill_(axis, index.to(value.device), 0)


class WeightCopies:
    """The weights that optimizers keep in their state beside those in the parameters.

    Mixed-precision and schedule-free optimizers, Lookahead, Prodigy and others write parameters from them or
    measure distances to them, so whoever writes weights must write these as well.

    Args:
        optimizers: any optimizers, after a step: before it they hold nothing.
        known: names of copies that were found earlier; they count as copies whatever they look like now.
        is_complete: whether there are no others.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], known: Collection[str] = (), *, is_complete: bool = False
    ) -> None:
        self._optimizers = tuple(optimizers)
        self._keys = tuple(
            {key for key in _keys_held(optimizer) if _name(number, key) in known}
            | (set() if is_complete else _keys_of_weights(optimizer))
            for number, optimizer in enumerate(self._optimizers)
        )

    def of(self, parameter: Tensor) -> dict[str, Tensor]:
        """The copies of one parameter, by a name that says whose they are: each of the parameter's shape."""
        return {
            _name(number, key): state[key]
            for number, (optimizer, keys) in enumerate(zip(self._optimizers, self._keys, strict=True))
            if (state := optimizer.state.get(parameter))
            for key in sorted(keys)
            if key in state
        }

    def add(self, parameter: Tensor, change: Tensor, sign: int = 1) -> None:
        """Adds `sign` times a change of a parameter to its copies as well."""
        for held in self.of(parameter).values():
            held.add_(change.to(held), alpha=sign)


_NEAR = 0.5
"""State that is nearer to its parameters than this share of their norm holds weights."""


def _name(number: int, key: str) -> str:
    return f"optimizer {number} {key}"


def _keys_held(optimizer: Optimizer) -> set[str]:
    return {key for state in optimizer.state.values() for key in state}


def _keys_of_weights(optimizer: Optimizer) -> set[str]:
    """The keys of element-wise state that holds weights: those that it says, and those that are near them."""
    apart: dict[str, float] = {}
    size: dict[str, float] = {}
    asked: dict[int, frozenset[str]] = {}
    for parameter, state in optimizer.state.items():
        like = [key for key, value in state.items() if _is_like(value, parameter)]
        if like and parameter.dim() and parameter.dim() not in asked:
            try:
                asked[parameter.dim()] = ask_for_weights(optimizer, parameter)
            except SurgeryError:  # one that wraps another: what its state looks like has to do
                asked[parameter.dim()] = frozenset()
        weights = _some(parameter)
        for key in like:
            difference = _some(state[key]) - weights
            apart[key] = apart.get(key, 0.0) + float(difference.abs().square().sum())
            size[key] = size.get(key, 0.0) + float(weights.abs().square().sum())
    said = frozenset().union(*asked.values())
    # Those that an experiment or their nearness, over all parameters together, shows to be weights.
    return {key for key in apart if key in said or apart[key] < _NEAR**2 * size[key]}


_SOME = 4096
"""Elements of a tensor that tell whether another is near it: the optimizer's state can be large."""


def _some(tensor: Tensor) -> Tensor:
    """Elements that lie evenly in a tensor, all of a small one: shape [elements]."""
    flat = tensor.detach().reshape(-1)
    return flat[:: -(-flat.numel() // _SOME) or 1]


def _is_like(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()


def named(parameters: Mapping[str, Tensor]) -> dict[Tensor, str]:
    """The inverse of a name table, by identity."""
    return {tensor: name for name, tensor in parameters.items()}
