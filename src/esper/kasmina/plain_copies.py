"""Copies of a network that a training loop keeps as plain tensors: in a dict by name, or in a list.

Many loops average the weights like this. `PlainCopy` makes a module of such a copy, so that it is masked,
cut, saved and restored like any other companion: a copy of the network whose parameters are the loop's own
tensors. A cut gives tensors their new shapes in place, so what the loop holds is smaller afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from esper.anatomy.graph import bare, bare_name, copied, named_tensors, sums_of_bits
from esper.errors import ConfigError
from esper.nissa import Event, given_events

Key: TypeAlias = str | int
"""Where the loop has a tensor: a name in its mapping, or a place in its list."""
_GONE = object()


def _nobody(_: Event) -> None:
    """There is nobody to tell."""


class PlainCopy(nn.Module):
    """A copy of a network that a loop keeps as plain tensors, as a module.

    A loop may put other tensors into its mapping or list in every step (`ema[k] = d * ema[k] + ...`): `take`
    follows those that are there now. What the loop does not keep, such as running statistics beside a list of
    parameters, is as in the network.

    Args:
        model: the network.
        given: the mapping or the list itself. Its tensors change, and never which ones it holds.
        number: of this companion, for people.

    Raises:
        ConfigError: its tensors are not those of a copy of this network.

    Attributes:
        given: the mapping or the list.
        tell: is told what is wrong with what the loop keeps.
    """

    def __init__(self, model: nn.Module, given: Mapping[str, Tensor] | Sequence[Tensor], number: int) -> None:
        super().__init__()
        network = bare(model)
        self.tell: Callable[[Event], None] = _nobody
        self.given, self._number = given, number
        self._network = (network,)  # in a tuple: it is no part of this module
        self._names = self._named()
        self._held: dict[Key, Tensor] = self._first_tensors()
        self.copy = copied(network)
        self._bind()
        self._seen: tuple[list[int], list[int]] | None = self._bits()
        """What the loop keeps and the network as they were, until the first was seen to change."""

    def take(self) -> bool:
        """Follows the tensors that the loop has now; tells of one that cannot be followed.

        Returns:
            Whether others are followed than before.
        """
        live, now = self._live(), self._now()
        own, odd, is_other = memory_of(live.values()), dict[Key, str](), False
        for key, name in self._names.items():
            value, followed = now.get(key, _GONE), self._held[key]
            why = _unlike(value, live[name])
            if not why and isinstance(value, Tensor) and value is not followed:
                if memory_of((value,)).isdisjoint(own):
                    self._held[key], is_other = value, True
                else:
                    why = "is the network's own memory"
            if why:
                odd[key] = why
                if followed.shape != live[name].shape:  # what is followed has to fit, whatever the loop has
                    self._held[key], is_other = _fresh(live[name]), True
        odd |= dict.fromkeys(now.keys() - self._names.keys(), "is new since the run began")
        for key, why in list(odd.items())[:1]:
            self.tell(given_events.TensorNotFollowed(self._number, str(key), why))
        if is_other:
            self._bind()
        self._fill()
        self._look_whether_it_rests()
        return is_other

    def settle(self) -> None:
        """Lets tensors that are no part of the copy follow as well.

        Of those that are tied in the network, and apart in the loop, the first one is a part of it.
        """
        right = self.state_dict()
        for key, name in self._names.items():
            if self._held[key].data_ptr() != right[name].data_ptr():
                _put(self._held[key], right[name])
        if self._seen is not None:
            self._seen = self._bits()

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """The loop's tensors by the network's names."""
        live = self._live()
        # A cut does not reach averages of whole numbers: such begin anew.
        return {
            name: (held if held.shape == live[name].shape else live[name].to(held)).detach()
            for name, held in self._by_name().items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Gives the loop's tensors the values that they had, in the type that they had."""
        for key, name in self._names.items():
            _put(self._held[key], state_dict[name])
        self._bind()
        self._fill()

    def _named(self) -> dict[Key, str]:
        """The network's name of every tensor that the loop keeps; of several names always the first."""
        given, own = self.given, list(self._network[0].named_parameters())
        if isinstance(given, Mapping):
            first = self._first_names()
            names: dict[Key, str] = {key: first.get(bare_name(str(key), first), "") for key in given}
            strange = next(
                (f"{key!r}, which is no parameter or buffer" for key in names if not names[key]), ""
            )
            if strange or not names:
                raise ConfigError(
                    f"Companion {self._number} is a mapping that holds {strange or 'nothing'}. Nothing was "
                    "changed. Give {name: tensor} by the names of model.state_dict(), all of them or some."
                )
            return names
        trained = [(name, tensor) for name, tensor in own if tensor.requires_grad]
        of = next((some for some in (own, trained) if some and len(some) == len(given)), None)
        if of is None:
            raise ConfigError(
                f"Companion {self._number} is a list of {len(given)} tensors, and the network has {len(own)} "
                f"parameters, {len(trained)} of them trainable. Nothing was changed. Give a tensor for each, "
                "in the order of model.parameters(): of all, or of all that are trainable."
            )
        return {place: name for place, (name, _) in enumerate(of)}

    def _first_tensors(self) -> dict[Key, Tensor]:
        """The loop's tensors when the run begins.

        Raises:
            ConfigError: one has another shape, or lies in memory of the network or of another one.
        """
        live, now = self._live(), self._now()
        own, owner = memory_of(live.values()), dict[Any, Key]()
        for key, name in self._names.items():
            value, why = now[key], _unlike(now[key], live[name])
            for place in memory_of((value,)) if not why else ():
                other = owner.setdefault(place, key)
                if place in own:
                    why = "is the network's own memory: clone it, `value.detach().clone()`"
                elif value is not now[other]:
                    why = f"lies in one piece of memory with {other!r}, which a cut would part: clone each"
            if why:
                raise ConfigError(
                    f"In companion {self._number} the tensor {key!r} {why}. Nothing was changed. Give a copy "
                    "of the network as it is now, of plain tensors."
                )
        return {key: now[key] for key in self._names}

    def _now(self) -> dict[Any, Any]:
        """What the loop keeps now, by its places."""
        return dict(self.given.items() if isinstance(self.given, Mapping) else enumerate(self.given))

    def _live(self) -> dict[str, Tensor]:
        return named_tensors(self._network[0])

    def _first_names(self) -> dict[str, str]:
        """For every name of the network's tensors the first one of the same tensor."""
        first: dict[int, str] = {}
        return {name: first.setdefault(id(tensor), name) for name, tensor in self._live().items()}

    def _by_name(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for key, name in self._names.items():
            found.setdefault(name, self._held[key])
        return found

    def _bind(self) -> None:
        """Puts the loop's tensors into the copy, under all of their names."""
        live = self._live()
        # An average of whole numbers (batches that a norm counts) is a float, with which it would not run.
        kept = {n: t for n, t in self._by_name().items() if _is_number(t) == _is_number(live[n])}
        first = self._first_names()
        like = next((tensor for tensor in kept.values() if _is_number(tensor)), None)
        self._own = {name: _fresh(live[name], like) for name in first.values() if name not in kept}
        for name, canonical in first.items():
            path, _, attribute = name.rpartition(".")
            part = self.copy.get_submodule(path)
            slots = part._parameters if attribute in part._parameters else part._buffers  # noqa: SLF001
            slots[attribute] = kept[canonical] if canonical in kept else self._own[canonical]  # type: ignore[assignment]

    def _fill(self) -> None:
        """What the loop does not keep becomes what it is in the network."""
        live = self._live()
        for name, tensor in self._own.items():
            tensor.detach().copy_(live[name].detach())

    def _bits(self) -> tuple[list[int], list[int]]:
        live = self._live()
        return sums_of_bits(self._held.values()), sums_of_bits(live[name] for name in self._names.values())

    def _look_whether_it_rests(self) -> None:
        """Tells once if the network was trained and what the loop keeps is what it was."""
        if self._seen is None:
            return
        kept, live = self._bits()
        is_at_rest, is_trained = kept == self._seen[0], live != self._seen[1]
        if is_at_rest and is_trained:
            self.tell(given_events.CompanionAtRest(self._number))
        if is_trained or not is_at_rest:
            self._seen = None


def memory_of(tensors: Iterable[Tensor]) -> set[tuple[torch.device, int]]:
    """Where tensors lie; what is empty, or not dense, lies nowhere."""
    dense = (tensor for tensor in tensors if tensor.layout is torch.strided and tensor.numel())
    return {(tensor.device, tensor.untyped_storage().data_ptr()) for tensor in dense}


def _unlike(value: object, like: Tensor) -> str:
    """Why something cannot be this tensor's place in a copy; '' if it can."""
    if value is _GONE:
        return "is not there any more"
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
        return f"is no plain tensor, but of the type {type(value).__name__}"
    if value.shape != like.shape:
        return f"has the shape {tuple(value.shape)}, and the network's has {tuple(like.shape)}"
    if _is_number(like) and (value.is_complex(), _is_number(value)) != (like.is_complex(), True):
        return f"is of {value.dtype}, and the network's is of {like.dtype}"
    if not value.is_leaf:
        return "was computed with a gradient: compute it under torch.no_grad(), or detach it"
    if value.is_inference():
        return "was made under torch.inference_mode(), so nobody can change it: make it under torch.no_grad()"
    return ""


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _fresh(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """A copy, on the device of another one, and of its type if it is of that kind."""
    made = tensor.detach().clone()
    if like is not None:
        made = made.to(like.device, like.dtype if made.is_floating_point() else made.dtype)
    return made.requires_grad_(tensor.requires_grad)


def _put(tensor: Tensor, value: Tensor) -> None:
    """Gives a tensor a value, also one of another shape or type; on its own device."""
    if (tensor.shape, tensor.dtype) == (value.shape, value.dtype):
        tensor.detach().copy_(value)
    else:
        tensor.data = value.detach().to(tensor.device, copy=True)
