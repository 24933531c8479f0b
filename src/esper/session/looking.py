"""The network of a session, looked at once, and what its configuration can say of cuts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from esper.anatomy.graph import bare
from esper.batches import is_single, other_kind, samples, varying_axes
from esper.compaction import describable, has_configuration
from esper.config import Config
from esper.errors import ConfigError
from esper.garbage import imported
from esper.kasmina import LiveNetwork
from esper.nissa import Event, given_events
from esper.session.admission import RunRequest, check_optimizer, check_together
from esper.session.companions import check_layers
from esper.session.together import network_of
from esper.session.undoing import undone_on_error


def looked_at(
    asked: RunRequest,
    settings: Config,
    sample: Any,
    *,
    layers: bool,
    others: Sequence[Any],
    followers: Mapping[str, str] | None = None,
    is_coupled: bool = False,
) -> tuple[LiveNetwork, Config, list[Event]]:
    """The network, looked at for batches like the sample and like the others that it will see.

    Args:
        asked: what the script has given.
        settings: what to do.
        sample: one batch.
        layers: whether whole layers are units.
        others: other batches.
        followers: frozen copies, where they are known from when the run began; see `LiveNetwork`.
        is_coupled: whether samples were seen to meet in the loss then.

    Returns:
        It; the settings, which say now whether cuts keep to its configuration; what is to be told of that.

    Raises:
        ConfigError: the batches of `probe` are single samples, or hold another dtype than the sample.
    """
    check_together(asked, settings)
    check_layers(asked.companions, layers=layers)
    check_optimizer(asked.model, asked.optimizer, asked.loss)
    if asked.probe is not None:
        _check_kinds(sample, others, bare(asked.model))
    free = varying_axes(sample, others, bare(asked.model))
    seen: dict[str, Any] = {"free": free, "followers": followers, "is_coupled": is_coupled}
    imported("torch.export._trace")  # once in a process: no part of what a look will take, which is timed
    network = network_of(asked, sample, layers=layers, **seen)
    wanted = settings.pruning.plan.configurable
    if not wanted or not has_configuration(network.model):
        return network, _keeping(settings, is_kept=bool(wanted)), []
    allowed = np.array([group.name not in network.refused for group in network.anatomy.groups], np.bool_)
    with undone_on_error(network.detach):
        unsaid = describable(network.model, network.anatomy, network.inputs, allowed)
    if wanted is True or int(allowed.sum()) > len(unsaid) or not unsaid:
        network.refused |= unsaid
        return network, _keeping(settings, is_kept=True), []
    why = next(iter(unsaid.values()))
    told: list[Event] = [given_events.NothingSayable(type(network.model).__name__, why)]
    return network, _keeping(settings, is_kept=False), told


def _check_kinds(sample: Any, batches: Sequence[Any], model: nn.Module) -> None:
    """Every analysis would fail on such batches, long after the run has begun."""
    if batches and is_single(sample, batches[0], model):
        raise ConfigError(
            "`probe` yields single samples, as a data set does, and batches like `sample` are needed. "
            f"Nothing was changed. Give torch.utils.data.DataLoader(probe, batch_size={samples(sample)})."
        )
    other = other_kind(sample, batches, model)
    if other is None:
        return
    theirs, ours = (str(kind).removeprefix("torch.") for kind in (other.dtype, other.wanted))
    is_probe_right = any(parameter.dtype == other.dtype for parameter in model.parameters())
    odd, right = ("`sample`", other.dtype) if is_probe_right else ("held-out data", other.wanted)
    raise ConfigError(
        f"Of the batches that `probe` yields, {other.place} is {theirs}, and that of `sample` is {ours}: "
        "what is made of one is not right for the other. Nothing was changed. Give both in the dtype that "
        f"the network is trained with, for example by `.to({right})` where {odd} is made."
    )


def _keeping(settings: Config, *, is_kept: bool) -> Config:
    """The settings with a plain answer where the question was left to the network."""
    if settings.pruning.plan.configurable is is_kept:
        return settings
    plan = settings.pruning.plan.model_copy(update={"configurable": is_kept})
    return settings.model_copy(update={"pruning": settings.pruning.model_copy(update={"plan": plan})})
