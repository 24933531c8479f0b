"""Cutting a network at once, outside of training: chosen, cut in place, proven, and ready to be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from esper.anatomy import Anatomy
from esper.anatomy.cut import Look, refused_groups
from esper.anatomy.graph import Loss, bare, check_given, check_made
from esper.arrays import BoolArray
from esper.batches import first_batches, varying_axes
from esper.compaction.choice import Chosen, Trials
from esper.compaction.compacted import Compacted
from esper.compaction.configuration import describable, has_configuration
from esper.compaction.cutting import Cutting
from esper.compaction.folded import folded
from esper.config import Config
from esper.emrakul import Settings, Target
from esper.emrakul.plan import Plan, choose_by_magnitude
from esper.errors import ConfigError, MaskError
from esper.kasmina import HANDS
from esper.urabrask import Measurement


def compact(
    model: nn.Module,
    plan: Plan | BoolArray | None = None,
    *,
    sample: Any,
    flops: float | None = None,
    parameters: float | None = None,
    blocks: Sequence[str] = (),
    by: Literal["magnitude", "loss"] | None = None,
    probe: Iterable[Any] | None = None,
    homogeneous: bool = False,
    in_place: bool = True,
    allow_approximate: bool = False,
    fold: bool = False,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    loss: Loss | None = None,
    config: Config | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Compacted:
    """Cuts a network at once and proves that nothing else changed.

    What goes is either given (`plan`) or chosen up to a share of the cost (`flops` or `parameters`). With
    held-out batches (`probe` and `loss`) it is chosen by what it costs, layers that read what goes make up
    for it by least squares, and the quality is measured before and after. Without them it is chosen by the
    size of weights, which is quick and unvalidated. `esper.attach` also lets training make up for the loss.

    Args:
        model: the network.
        plan: a plan, or a mask: bool [units of `esper.inspect(model, sample, loss)`], False goes.
        sample: one batch: the input, or `(input, target)` when `loss` is given.
        flops: share of the FLOPs to remove.
        parameters: share of the parameters to remove, instead.
        blocks: residual layers to remove first: names from `esper.anatomy.residual_blocks`, or of modules
            that hold some (`layers.3`). Shares include them; units are chosen in what they leave.
        probe: batches like `sample` that the network was not trained on; the first ones decide
            (`config.analysis.calibration_samples`), others judge (`config.analysis.held_out_samples`).
        by: how units are chosen; unless given, by loss where there is a probe and else by magnitude.
        homogeneous: leave the same width in all layers that are alike, so that one number for all of them, as
            in a `transformers` configuration, can say it.
        in_place: False leaves the network as it is and cuts its exported program instead, which works also
            where the network's own code refuses other sizes.
        allow_approximate: units may also go that normalizations run over: the width of a residual stream,
            whole experts of a mixture. What is left is then normalized by itself, which moves the outputs;
            how far, `proof.approximation` says.
        fold: instead of choosing, fold units that are there twice into their twin, which loses nothing.
        optimizer: one, or several, whose state shall follow a cut in place.
        loss: `loss(output, target)`; with it only the outputs that the loss uses are fixed.
        config: floors and rounding (`config.pruning`), numbers of samples (`config.analysis`).
        progress: hears which share of the work of a choice by loss is done, 0 to 1; it can take minutes.

    Raises:
        UntraceableError: the network cannot be exported.
        ConfigError: a class was given, or `model` is no network; it is not said what shall go, or
            said twice; the probe is too small or has no loss; a session holds the network.
        EvidenceError: the batches of the probe are not like the sample.
        MaskError: the plan is of another network.
        UnknownPathError: there is no block of that name.
        SurgeryError: it cannot be cut; nothing changed.
    """
    check_given(model, loss)
    _check_means(by, probe, loss)
    optimizers = _listed(optimizer)
    if in_place:
        HANDS.refuse_held(bare(model), optimizers)
    if fold and (plan is not None or flops is not None or parameters is not None or blocks or not in_place):
        raise ConfigError(
            "fold=True removes what is there twice, in place and nothing else. Call esper.compact once to "
            "fold and once more for what shall go beyond that."
        )
    if blocks:
        _check_blocks(model, plan, homogeneous)
    is_chosen = plan is None and not fold and not (blocks and flops is None and parameters is None)
    settings = _settings(plan, flops, parameters, config) if is_chosen else None
    free = frozenset[tuple[int, int]]()
    if probe is not None and loss is not None:
        with torch.random.fork_rng(devices=[]):  # a data loader draws from it
            probe = first_batches(probe, (config or Config()).analysis)
        free = varying_axes(sample, probe, bare(model))
    whole = Look.at(model, sample, loss, allow_approximate=allow_approximate, free=free)
    if fold:
        refused = _refused(whole, homogeneous)
        allowed = _allowed(whole.anatomy, refused)
        return folded(model, whole.anatomy, whole.inputs, optimizers, allowed=allowed, refused=refused)
    less = whole
    if blocks:
        less = whole.without(blocks, sample, loss, as_program=not in_place and probe is None)
        settings = None if settings is None else _rest_of(settings, whole.anatomy, less.anatomy)
    start = Trials.of(whole, probe, config or Config()).quality() if blocks and probe is not None else None
    trials = None if probe is None else Trials.of(less, probe, config or Config())
    cutting = Cutting(model, less, optimizers, in_place, tuple(blocks))
    if settings is None:
        keep = less.everything if plan is None else _asked(plan, less.anatomy)
        result = cutting.by_mask(Chosen(keep) if trials is None else trials.complete(keep))
    else:

        def choose(refused: Mapping[str, str]) -> Chosen:
            allowed = _allowed(less.anatomy, refused)[less.anatomy.group_of]
            return _chosen(less, settings, allowed, trials, by, homogeneous, progress)

        # A choice that is quickly made is made at once, and again where a part of it turns out not to go. One
        # that takes minutes has to know what goes beforehand.
        is_quick = (trials is None or by == "magnitude") and not homogeneous
        result = cutting.by_choice(
            choose, settings, partial(_refused, less, homogeneous), is_tried_first=in_place and not is_quick
        )
    return _beside(whole.anatomy, start, result) if blocks else result


def _rest_of(settings: Settings, whole: Anatomy, less: Anatomy) -> Settings | None:
    """The target as a share of what layers have left; None if they reach it alone."""
    target = settings.target
    assert target is not None  # noqa: S101  # there is a choice because there is one
    is_flops = target.cost == "flops"
    before, left = (one.flops() if is_flops else one.parameters() for one in (whole, less))
    # Layers took the cost from `before` to `left`. Of that (1 - rest) may stay, which must be (1 - target)
    # of `before`.
    rest = 1 - (1 - target.fraction) * before / left if left else 0.0
    if rest <= 0:
        return None
    share = Target(flops=rest) if is_flops else Target(parameters=rest)
    return settings.model_copy(update={"target": share})


def _beside(whole: Anatomy, start: Measurement | None, result: Compacted) -> Compacted:
    """A cut that began with layers, told beside the network with them."""
    quality = result.quality
    if quality is not None and start is not None:
        quality = quality.since(start)
    return replace(result, quality=quality, flops_before=whole.flops(), parameters_before=whole.parameters())


def _check_blocks(model: nn.Module, plan: Plan | BoolArray | None, homogeneous: bool) -> None:
    if plan is not None:
        raise ConfigError(
            "A plan or mask is of the whole network, and without the blocks it is another one. Give flops or "
            "parameters with blocks, or cut by the mask afterwards."
        )
    if homogeneous and has_configuration(bare(model)):
        raise ConfigError(
            f"The configuration of {type(model).__name__} cannot say which layers are gone, so "
            "homogeneous=True promises nothing with blocks. Leave one of them out."
        )


def _chosen(
    look: Look,
    settings: Settings,
    allowed: BoolArray,
    trials: Trials | None,
    by: str | None,
    homogeneous: bool,
    progress: Callable[[float], None],
) -> Chosen:
    if trials is not None and by != "magnitude":
        return trials.choose(settings, allowed, homogeneous=homogeneous, told=progress)
    parameters = dict(look.network.named_parameters())
    choice = choose_by_magnitude(look.anatomy, parameters, settings, allowed=allowed, homogeneous=homogeneous)
    return Chosen(choice.keep, choice.notes) if trials is None else trials.complete(choice.keep, choice.notes)


def _refused(look: Look, homogeneous: bool) -> dict[str, str]:
    """Groups that stay whole, because the network's code or its configuration cannot follow; and why."""
    network, anatomy, inputs = look.network, look.anatomy, look.inputs
    refused = refused_groups(network, anatomy, inputs)
    if homogeneous and has_configuration(network):
        refused |= describable(network, anatomy, inputs, _allowed(anatomy, refused))
    return refused


def _allowed(anatomy: Anatomy, refused: Mapping[str, str]) -> BoolArray:
    """Which groups may be cut: bool [groups]."""
    return np.array([group.name not in refused for group in anatomy.groups], np.bool_)


def _settings(
    plan: Plan | BoolArray | None,
    flops: float | None,
    parameters: float | None,
    config: Config | None,
) -> Settings | None:
    """Floors, rounding and target of a choice; None if nothing has to be chosen."""
    pruning = (config or Config()).pruning
    if (flops is not None) + (parameters is not None) + (plan is not None) > 1:
        raise ConfigError("Give one of plan, flops and parameters: each says alone what shall go.")
    if plan is not None:
        return None
    if flops is None and parameters is None:
        if pruning.target is None:
            raise ConfigError("Say what shall go: a plan or mask, flops=0.5, or parameters=0.5.")
        return pruning
    try:
        target = Target(flops=flops, parameters=parameters)
    except ValueError as error:
        share = flops if flops is not None else parameters
        raise ConfigError(f"A share to remove lies between 0 and 1; {share} was given.") from error
    return pruning.model_copy(update={"target": target, "staged": False})


def _listed(optimizer: Optimizer | Sequence[Optimizer] | None) -> tuple[Optimizer, ...]:
    if optimizer is None:
        return ()
    given = (optimizer,) if isinstance(optimizer, (Optimizer, type)) else tuple(optimizer)
    for one in given:
        check_made("optimizer", one, "model.parameters(), ...")
    return given


def _check_means(by: str | None, probe: Iterable[Any] | None, loss: Loss | None) -> None:
    if by not in (None, "loss", "magnitude"):
        raise ConfigError(
            f"Units cannot be chosen by {by!r}; expected 'loss' (with probe= and loss=) or 'magnitude'. A "
            "choice of your own is given as a mask."
        )
    if by == "loss" and probe is None:
        raise ConfigError("A choice by loss needs held-out batches: give probe= and loss=.")
    if probe is not None and loss is None:
        raise ConfigError("The batches of probe= are judged by a loss: give loss=loss(output, target).")


def _asked(plan: Plan | BoolArray | None, anatomy: Anatomy) -> BoolArray:
    if isinstance(plan, Plan):
        if plan.anatomy_digest != anatomy.digest:
            raise MaskError(
                f"This plan is about network {plan.anatomy_digest[:12]}, and the network that was given is "
                f"{anatomy.digest[:12]}. Plan again from what esper.inspect says of it."
            )
        return plan.keep
    keep = np.asarray(plan)
    anatomy.check_mask(keep)
    return keep.copy()
