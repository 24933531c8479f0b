"""Running averages of the weights, which callbacks or the module itself keep: they follow masks and cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.optim.swa_utils import AveragedModel

from esper.errors import ConfigError


def averages_of(module: LightningModule, part: str, callbacks: Iterable[Callback]) -> dict[str, nn.Module]:
    """What holds an average of the network's weights, by name and in the same order in every run of a script.

    That is every `AveragedModel` of torch, as Lightning's `WeightAveraging` keeps one, and what
    `StochasticWeightAveraging` copies. Another copy may be a teacher or a snapshot, which a mask would spoil.

    Args:
        module: what is trained.
        part: of it that is pruned; '' for all of it.
        callbacks: of the trainer, in whatever order.
    """
    network = module.get_submodule(part)
    own = [(name, held) for name, held in module.named_modules() if isinstance(held, AveragedModel)]
    found = {}
    for name, held in (*_kept_by(callbacks), *own):
        copied = held.module if isinstance(held, AveragedModel) else held
        if type(copied) is type(module):
            copied, is_all = copied.get_submodule(part), not part
        else:
            is_all = True
        if _is_like(copied, network):
            found[name] = held if is_all else copied  # with what torch counts beside it
    return dict(sorted(found.items()))


def refuse_inner(network: nn.Module) -> None:
    """Raises if the network holds an average of a part of itself, which is no copy of the whole.

    Raises:
        ConfigError: so it is.
    """
    parts = [(name, part) for name, part in network.named_modules() if name]
    for name, held in parts:
        if not isinstance(held, AveragedModel):
            continue
        inside = {id(below) for below in held.modules()}
        of = next((n for n, part in parts if id(part) not in inside and _is_like(held.module, part)), None)
        if of is not None:
            raise ConfigError(
                f"This {type(network).__name__} keeps in {name} an average of its {of}, and no cut of the "
                f"whole would reach it. Nothing was changed. Say that {of} is what is pruned, "
                f"EsperCallback(network={of!r}, loss=...): the average follows it then."
            )


def behind_averages(ours: Callback, callbacks: Sequence[Callback]) -> list[Callback]:
    """The callbacks in an order in which `ours` stands behind all that keep an average.

    At the end those write the average into the network, and that comes before the last cut and the last save.
    """
    place = callbacks.index(ours)
    last = max((n for n, other in enumerate(callbacks) if any(_kept_by([other]))), default=-1)
    if last < place:
        return list(callbacks)
    return [*callbacks[:place], *callbacks[place + 1 : last + 1], ours, *callbacks[last + 1 :]]


def refuse_late(found: Mapping[str, nn.Module], known: Sequence[nn.Module]) -> None:
    """Raises if there is an average that was not there when the run began.

    Raises:
        ConfigError: so it is.
    """
    late = [name for name, held in found.items() if not any(held is one for one in known)]
    if late:
        raise ConfigError(
            f"The average {', '.join(late)} was made after EsperCallback had begun, so that no cut would "
            "reach it. No step was made. Make it in setup() of its callback, or put EsperCallback behind it "
            "in Trainer(callbacks=[...])."
        )


def _kept_by(callbacks: Iterable[Callback]) -> Iterator[tuple[str, nn.Module]]:
    """The averages that callbacks keep."""
    for callback in callbacks:
        for name, held in vars(callback).items():
            is_copy = isinstance(callback, StochasticWeightAveraging) and isinstance(held, LightningModule)
            if is_copy or isinstance(held, AveragedModel):
                yield f"{callback.state_key}.{name}", held


def _is_like(copied: nn.Module, network: nn.Module) -> bool:
    ours, theirs = network.state_dict(), copied.state_dict()
    return ours.keys() == theirs.keys() and all(ours[name].shape == theirs[name].shape for name in ours)
