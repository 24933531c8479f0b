"""Cutting a network at once, outside of training: chosen, cut in place, proven, and ready to be saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn
from torch.export import ExportedProgram
from torch.optim import Optimizer

from esper.anatomy import Anatomy, Equivalence, Loss, Probe, anatomy_of, cut, split_sample, trace
from esper.anatomy.deployed import deployed
from esper.anatomy.feasibility import refused_groups
from esper.anatomy.form import Form, Snapshot
from esper.anatomy.program import cut_program
from esper.anatomy.structure import BoolArray
from esper.anatomy.wrappers import bare
from esper.config import Config
from esper.emrakul import Plan
from esper.emrakul.by_magnitude import choose_by_magnitude
from esper.emrakul.settings import Settings, Target
from esper.errors import ConfigError, MaskError, SurgeryError
from esper.nissa import WidthRow
from esper.session.choice import Chosen, Quality, Trials
from esper.session.describing import Description, describable, describe, has_configuration
from esper.session.files import NetworkFiles, state_of

PROOF_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class Compacted:
    """What a cut did.

    Attributes:
        model: the cut network: the very object that was given, or, cut as a program, a module without code.
        keep: the units that stayed, bool [units of `anatomy`].
        anatomy: the network before.
        proof: how equal the cut network is to the masked one.
        flops_before: of one forward pass for one sample.
        flops_after: the same of the cut network.
        parameters_before: parameters, tied ones counted once.
        parameters_after: the same of the cut network.
        widths: units of every group before and after.
        refused: groups that stayed because the network's own code refuses to be cut there, and why.
        notes: what people should know, for example that quality was not measured.
        quality: loss and accuracy on held-out samples before and after; None without a probe.
        program: the cut network as a program; None if it was cut in place.
        form: what a fresh network must change to take the weights; None if it was cut as a program.
    """

    model: nn.Module
    keep: BoolArray
    anatomy: Anatomy
    proof: Equivalence
    flops_before: float
    flops_after: float
    parameters_before: int
    parameters_after: int
    widths: tuple[WidthRow, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    quality: Quality | None
    program: ExportedProgram | None
    form: Form | None
    description: Description | None
    probe: Probe

    def save(self, directory: str | Path, *, onnx: bool = False) -> Path:
        """Writes `network.pt2` and `form.json`, and `model.safetensors` of a network that was cut in place.

        `esper.load(directory)` needs no class; `esper.load(directory, model=fresh)` fills a fresh network.

        Args:
            directory: a new or empty directory.
            onnx: also write `network.onnx` and check it by running it.

        Raises:
            CheckpointError: the directory cannot be written; nothing was.
            UntraceableError: the cut network cannot be exported.
            ConfigError: ONNX is asked for and its packages are missing.
        """
        path = Path(directory)
        network = bare(self.model)
        program = self.program or deployed(network, self.probe.args, self.probe.kwargs)
        weights = state_of(network.state_dict()) if self.form is not None else None
        NetworkFiles(program, self.probe, self.facts(), weights, self.form).write(path, onnx=onnx)
        return path

    def save_pretrained(self, directory: str | Path) -> Path:
        """Saves with the model's own `save_pretrained`, so that its `from_pretrained` builds the cut network.

        Raises:
            ConfigError: the model's configuration cannot describe the cut; the message says what to do.
        """
        if self.description is None or not self.description.is_complete:
            why = self.description.why if self.description else "it was not asked whether it can"
            raise ConfigError(
                f"The configuration of {type(self.model).__name__} does not describe this cut: {why}. Cut "
                "with homogeneous=True, which leaves the same width in all layers that are alike, or use "
                "save() and esper.load(path, model=fresh), which take any cut."
            )
        self.description.save(bare(self.model), Path(directory))
        return Path(directory)

    def facts(self) -> dict[str, Any]:
        """The numbers, as JSON holds them."""
        return {
            "model": type(self.model).__qualname__,
            "flops": [self.flops_before, self.flops_after],
            "parameters": [self.parameters_before, self.parameters_after],
            "widths": {row.group: [row.before, row.after] for row in self.widths},
            "proof": {
                "float32_error": self.proof.float32_error,
                "float64_error": self.proof.float64_error,
                "gradient_error": self.proof.gradient_error,
                "samples": self.proof.samples,
            },
            "quality": None if self.quality is None else self.quality.to_json(),
            "refused": dict(self.refused),
            "notes": list(self.notes),
        }


def compact(
    model: nn.Module,
    plan: Plan | BoolArray | None = None,
    *,
    sample: Any,
    flops: float | None = None,
    parameters: float | None = None,
    by: Literal["magnitude", "loss"] | None = None,
    probe: Iterable[Any] | None = None,
    homogeneous: bool = False,
    in_place: bool = True,
    optimizer: Optimizer | None = None,
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
        probe: batches like `sample` that the network was not trained on; the first ones decide
            (`config.analysis.calibration_samples`), others judge (`config.analysis.held_out_samples`).
        by: how units are chosen; unless given, by loss where there is a probe and else by magnitude.
        homogeneous: leave the same width in all layers that are alike, so that one number for all of them, as
            in a `transformers` configuration, can say it.
        in_place: False leaves the network as it is and cuts its exported program instead, which works also
            where the network's own code refuses other sizes.
        optimizer: an optimizer whose state shall follow a cut in place.
        loss: `loss(output, target)`; with it only the outputs that the loss uses are fixed.
        config: floors and rounding (`config.pruning`), numbers of samples (`config.analysis`).
        progress: hears which share of the work of a choice by loss is done, 0 to 1; it can take minutes.

    Raises:
        UntraceableError: the network cannot be exported.
        ConfigError: it is not said what shall go, or said twice; the probe is too small or has no loss.
        EvidenceError: the batches of the probe are not like the sample.
        MaskError: the plan is of another network.
        SurgeryError: it cannot be cut; nothing changed.
    """
    settings = _settings(plan, flops, parameters, config)
    _check_means(by, probe, loss)
    traced, network = trace(model, sample, loss), bare(model)
    anatomy = anatomy_of(traced, network)
    args, kwargs, _ = split_sample(sample, with_target=loss is not None)
    inputs = Probe(args, kwargs)
    inputs = inputs.first(PROOF_SAMPLES) if traced.is_batch_dynamic else inputs
    trials = None if probe is None else Trials(network, traced, anatomy, probe, config or Config())
    refused: dict[str, str] = {}
    if settings is None:
        keep = _asked(plan, anatomy)
        chosen = Chosen(keep) if trials is None else trials.complete(keep)
    else:
        refused = _refused(network, anatomy, inputs, homogeneous) if in_place else {}
        allowed = _allowed(anatomy, refused)[anatomy.group_of]
        chosen = _chosen(network, anatomy, settings, allowed, trials, by, homogeneous, progress)
    with chosen.applied(network, for_good=in_place):
        return _cut(model, anatomy, chosen, inputs, optimizer, in_place, refused)


def _chosen(
    model: nn.Module,
    anatomy: Anatomy,
    settings: Settings,
    allowed: BoolArray,
    trials: Trials | None,
    by: str | None,
    homogeneous: bool,
    progress: Callable[[float], None],
) -> Chosen:
    if trials is not None and by != "magnitude":
        return trials.choose(settings, allowed, homogeneous=homogeneous, told=progress)
    parameters = dict(model.named_parameters())
    choice = choose_by_magnitude(anatomy, parameters, settings, allowed=allowed, homogeneous=homogeneous)
    return Chosen(choice.keep, choice.notes) if trials is None else trials.complete(choice.keep, choice.notes)


def _refused(model: nn.Module, anatomy: Anatomy, inputs: Probe, homogeneous: bool) -> dict[str, str]:
    """Groups that stay whole, because the network's code or its configuration cannot follow; and why."""
    refused = refused_groups(model, anatomy, inputs)
    if homogeneous and has_configuration(model):
        refused |= describable(model, anatomy, inputs, _allowed(anatomy, refused))
    return refused


def _allowed(anatomy: Anatomy, refused: Mapping[str, str]) -> BoolArray:
    """Which groups may be cut: bool [groups]."""
    return np.array([group.name not in refused for group in anatomy.groups], np.bool_)


def _cut(
    model: nn.Module,
    anatomy: Anatomy,
    chosen: Chosen,
    probe: Probe,
    optimizer: Optimizer | None,
    in_place: bool,
    refused: Mapping[str, str],
) -> Compacted:
    keep, notes = chosen.keep, chosen.notes
    program: ExportedProgram | None = None
    form: Form | None = None
    description: Description | None = None
    result = model
    if in_place:
        network = bare(model)
        before = Snapshot.of(network)
        made = cut(model, anatomy, keep, probe, () if optimizer is None else (optimizer,))
        try:
            form = Form.between(before, network, [made.kept])
        except SurgeryError as error:
            notes = (*notes, str(error))
        proof, description = made.equivalence, describe(network, anatomy, keep, probe)
    else:
        cut_one = cut_program(bare(model), anatomy, keep, probe)
        proof, program, result = cut_one.equivalence, cut_one.program, cut_one.program.module()
    return outcome(
        result,
        anatomy,
        keep,
        probe,
        proof,
        refused=refused,
        notes=notes,
        quality=chosen.quality,
        program=program,
        form=form,
        description=description,
    )


def outcome(
    model: nn.Module,
    anatomy: Anatomy,
    keep: BoolArray,
    probe: Probe,
    proof: Equivalence,
    *,
    notes: tuple[str, ...],
    refused: Mapping[str, str] | None = None,
    quality: Quality | None = None,
    program: ExportedProgram | None = None,
    form: Form | None = None,
    description: Description | None = None,
) -> Compacted:
    """The result of a cut, with what it saved."""
    widths = tuple(
        WidthRow(group.name, group.kind.value, group.width, int(keep[anatomy.unit_slice(number)].sum()))
        for number, group in enumerate(anatomy.groups)
    )
    return Compacted(
        model=model,
        keep=keep,
        anatomy=anatomy,
        proof=proof,
        flops_before=anatomy.flops(),
        flops_after=anatomy.flops(keep),
        parameters_before=anatomy.parameters(),
        parameters_after=anatomy.parameters(keep),
        widths=widths,
        refused=refused or {},
        notes=notes,
        quality=quality,
        program=program,
        form=form,
        description=description,
        probe=probe,
    )


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
