"""What a session is given, out of its wrappers, and what it refuses before it begins or goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from esper.anatomy.graph import (
    Loss,
    bare,
    check_given,
    check_made,
    check_renewable,
    is_inside_parallel,
    is_parallel,
    is_sharded,
    loss_tensors,
    named_tensors,
)
from esper.batches import HeldOut, sizes_of
from esper.checkpoint import Generator, HasStateDict, misfits
from esper.config import Config
from esper.errors import CheckpointError, ConfigError, EvidenceError, SurgeryError
from esper.kasmina import CheckpointedTeacher, LiveNetwork
from esper.kasmina.seeds import Blueprint
from esper.leyline import Level
from esper.nissa import Sink
from esper.session.companions import GivenCompanions, companions_in
from esper.session.pace import Pace
from esper.session.ranks import Ranks
from esper.session.teaching import teacher_of
from esper.tamiyo import Policy, check_policy
from esper.tezzeret import blueprints_in
from esper.urabrask import fitting, usable


class RunRequest:
    """What a training script gives for a run, whether that begins or goes on, out of its wrappers.

    One or several become several, none becomes no one. `ranks` are the processes that train the network; None
    where one does. `optimizer` is without wrappers, `probe` None where there are no other held-out batches,
    `config` and `pace` empty where those that the run was begun with, or the defaults, are right.
    """

    def __init__(
        self,
        run_dir: str | Path,
        model: nn.Module,
        optimizer: Any,
        *,
        loss: Loss,
        probe: Iterable[Any] | None,
        scheduler: HasStateDict | Sequence[HasStateDict] | None,
        scaler: HasStateDict | None,
        generators: Mapping[str, Generator] | None,
        companions: GivenCompanions,
        blueprints: Mapping[str, Blueprint] | None,
        policy: Policy | None,
        teacher: CheckpointedTeacher | nn.Module | None,
        sinks: Sequence[Sink],
        config: Config | Mapping[str, Any] | None,
        pace: Pace,
    ) -> None:
        """Takes what was given.

        Raises:
            ConfigError: a class was given for a network, a loss, an optimizer or a scheduler, the optimizer
                is none, a companion is no copy, a setting is not known, or the network is trained by several
                processes in a way that a session does not know.
        """
        check_given(model, loss)
        check_initialized(model)
        self.model, self.loss, self.probe, self.pace = model, loss, probe, pace
        self.optimizer = optimizer_in(optimizer)
        check_processes(model, self.optimizer)
        self.companions = companions_in(companions, model)
        check_policy(policy)
        self.config = None if config is None else Config.of(config)
        self.run = Path(run_dir).absolute()
        self.ranks = Ranks.of(model)
        self.schedulers, self.scaler = _listed(scheduler), scaler
        self.generators = dict(generators or {})
        self.blueprints = blueprints_in(blueprints)
        self.policy = policy
        self.teacher = teacher_of(teacher, model, self.companions, self.optimizer)
        self.sinks = sinks_in(sinks)

    @property
    def optimizers(self) -> tuple[Optimizer, ...]:
        """`optimizer`, and those that were given beside schedulers, out of their wrappers."""
        inside = (getattr(one, "optimizer", None) for one in self.schedulers if isinstance(one, Optimizer))
        found = (self.optimizer, *(one for one in (*self.schedulers, *inside) if _takes_hooks(one)))
        return tuple({id(one): one for one in found}.values())  # one may have been given twice


def _listed(scheduler: HasStateDict | Sequence[HasStateDict] | None) -> Sequence[HasStateDict]:
    if scheduler is None:
        return ()
    given = tuple(scheduler) if isinstance(scheduler, Sequence) else (scheduler,)
    for one in given:
        check_made("scheduler", one, "optimizer, ...")
    return given


def sinks_in(given: Any) -> tuple[Sink, ...]:
    """The sinks one by one; a single one needs no list around it.

    Raises:
        ConfigError: one of them cannot be told anything.
    """
    is_one = callable(getattr(given, "emit", None)) and not isinstance(given, type)
    sinks = (given,) if is_one or not isinstance(given, Iterable) else tuple(given)
    for sink in sinks:
        if isinstance(sink, type) or not callable(getattr(sink, "emit", None)):
            what = (
                f"the class {sink.__name__}"
                if isinstance(sink, type)
                else f"a thing of the type {type(sink).__name__}"
            )
            raise ConfigError(
                f"Among `sinks` is {what}, and a sink is an object with a method emit(event). Nothing was "
                "changed. esper.nissa has some, such as ListSink()."
            )
    return sinks


def optimizer_in(given: Any) -> Optimizer:
    """The optimizer itself, out of what a training library has put around it (`AcceleratedOptimizer`).

    Raises:
        ConfigError: it is a class, or there is none in it.
    """
    check_made("optimizer", given, "model.parameters(), ...")
    inner = given
    while not _takes_hooks(inner):
        inner = getattr(inner, "optimizer", None)
        if inner is None and isinstance(given, Optimizer):
            raise ConfigError(_without_hooks(given))
        if inner is None and isinstance(given, (list, tuple)) and any(map(_takes_hooks, given)):
            raise ConfigError(
                f"`optimizer` is one optimizer, and a {type(given).__name__} of {len(given)} was given. "
                "Nothing was changed. Give one as `optimizer` and the others as `scheduler=[other]`: they "
                "are saved and restored with the run, and masks and cuts follow each of them."
            )
        if inner is None:
            raise ConfigError(
                f"A {type(given).__name__} is no torch.optim.Optimizer and holds none as `.optimizer`. "
                "Nothing was changed. Give the optimizer whose `step` changes the network's parameters."
            )
    return inner


def _takes_hooks(thing: Any) -> TypeGuard[Optimizer]:
    """Is it an optimizer that calls hooks at its steps? A wrapper may be of the class without that."""
    return isinstance(thing, Optimizer) and "_optimizer_step_post_hooks" in vars(thing)


def _without_hooks(optimizer: Optimizer) -> str:
    """What is wrong with one whose class does not call the constructor of its base class."""
    name, inside = type(optimizer).__name__, inner_optimizer(optimizer)
    other = (
        f" Or give {inside}, if what is around it keeps no copies of weights: a mask would not reach them."
    )
    return (
        f"The `__init__` of {name} does not call `super().__init__(params, defaults)` of "
        "torch.optim.Optimizer, so it has none of torch's hooks, and nobody hears its steps. Nothing was "
        "changed. Call it there, and keep what belongs to a parameter in `self.state[parameter]`, so that it "
        f"follows masks and cuts.{other if inside else ''}"
    )


def inner_optimizer(optimizer: Optimizer) -> str:
    """Where an optimizer holds another one, as SAM does: ".base_optimizer (SGD)"; '' if it holds none."""
    for name, value in vars(optimizer).items():
        if isinstance(value, Optimizer):
            return f".{name} ({type(value).__name__})"
    return ""


def in_no_optimizer(asked: RunRequest) -> list[str]:
    """The trainable parameters of the network that no given optimizer holds, by name."""
    held = {id(p) for one in asked.optimizers for group in one.param_groups for p in group["params"]}
    parameters = bare(asked.model).named_parameters()
    return [name for name, value in parameters if value.requires_grad and id(value) not in held]


def check_initialized(model: nn.Module) -> None:
    """Refuses lazy layers (`nn.LazyLinear`) that have not seen a batch yet.

    Raises:
        ConfigError: a parameter has no shape.
    """
    lazy = next((name for name, tensor in named_tensors(model).items() if is_lazy(tensor)), "")
    if lazy:
        raise ConfigError(
            f"{lazy} has no shape yet: its layer is made by the first batch that it sees. Nothing was "
            "changed. Run one through the network, `model(x)`, before attaching."
        )


def run_name(network: LiveNetwork) -> str:
    """By what a run directory knows its network: its class, and the structure that it has before any cut."""
    return f"{type(network.model).__qualname__}-{network.anatomy.digest[:16]}"


def check_same_network(network: LiveNetwork, saved: Mapping[str, Any], began: str) -> None:
    """Refuses to resume a run with another network than it began with; the names of both were compared.

    Args:
        network: as the script has built it.
        saved: what a checkpoint holds.
        began: the `run_name` that the run directory knows.

    Raises:
        CheckpointError: it says what is different.
    """
    name = run_name(network)
    if began == name:
        return
    (first, _, structure), now = began.rpartition("-"), type(network.model).__qualname__
    if name.endswith(structure):
        raise CheckpointError(
            f"The run began with the class {first}, and this network, of the same structure, is of the class "
            f"{now}: a run directory belongs to one network. Nothing was changed. Call the class {first} "
            "again, or choose another run_dir."
        )
    tensors = saved["model"]["tensors"]
    is_whole = not saved["structure"]["changes"]  # after a cut only the names can be compared
    wrong = misfits(tensors if is_whole else dict.fromkeys(tensors), network.model.state_dict())
    what = "; ".join(wrong[:4]) or "its layers have other sizes, or another order"
    raise CheckpointError(
        f"The run began with another network: {what}. Nothing was changed. Build the network as when the run "
        "began, with the same names, or choose another run_dir."
    )


def check_optimizer(model: nn.Module, optimizer: Optimizer, loss: Any) -> None:
    """The optimizer must train this very network, and nothing that no checkpoint would hold."""
    own = {id(tensor) for tensor in named_tensors(model).values()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    name = type(optimizer).__name__
    if not any(id(parameter) in own for parameter in trained):
        raise ConfigError(
            f"This {name} trains {len(trained)} parameters, and none of them belongs to the given "
            f"{type(model).__name__}. Build the optimizer from model.parameters() of this very object, after "
            "moving it to its device. Nothing was changed."
        )
    known = own | {id(tensor) for tensor in loss_tensors(loss).values()}
    foreign = [tuple(parameter.shape) for parameter in trained if id(parameter) not in known]
    if foreign:
        raise ConfigError(
            f"This {name} also trains {len(foreign)} parameter(s) that belong neither to the network nor to "
            f"the loss (the first of shape {foreign[0]}), so they would be in no checkpoint, and an analysis "
            "would see them as they are now. Give the criterion that holds them as `loss=`, as the module "
            "that it is and not in a function; or make them part of the network; or train them by an "
            "optimizer of their own. Nothing was changed."
        )


def fitting_batches(network: LiveNetwork, batches: Sequence[Any]) -> list[Any]:
    """The held-out batches that the network can be asked with; see `fitting`."""
    return fitting(network.graph, batches)


def check_sizes(fitting: Sequence[Any], probe: Sequence[Any], network: LiveNetwork) -> None:
    """Refuses held-out batches of so many sizes that too few have those that the network was traced with.

    Args:
        fitting: of the batches of `probe` those that do.
        probe: all of them.
        network: it was traced.

    Raises:
        ConfigError: a batch is a whole, and there are no two of these sizes.
    """
    if len(fitting) != 1 or len(probe) == 1:
        return
    if not network.graph.is_coupled and len(sizes_of(fitting[0])) == 1:
        return  # it is divided
    misfit = next(filter(None, map(network.graph.misfit, probe)))
    raise ConfigError(
        f"Of {len(probe)} batches that probe yields, 1 can be used, and two are needed: one to analyze with "
        f"and another to judge by. Others have other sizes than `sample`: one holds {misfit}. Nothing was "
        "changed. Pad what varies from sample to sample, such as the boxes of an image, to one tensor of one "
        "size for `sample` and `probe`, and let `loss` leave the padding out."
    )


def check_held_out(held_out: HeldOut, network: LiveNetwork) -> None:
    """Refuses held-out batches of which not one is built and shaped like the sample.

    Raises:
        ConfigError: every analysis would fail on them.
    """
    try:
        batches = [*usable(network.graph, held_out.calibration), *usable(network.graph, held_out.validation)]
    except EvidenceError:  # too few for batches of the one size that the network takes: told by an analysis
        return
    try:
        misfits = [network.graph.misfit(batch) for batch in batches]
    except EvidenceError as error:
        raise ConfigError(f"{error} Nothing was changed.") from error
    if all(misfits):
        raise ConfigError(
            f"Not one batch that probe yields is shaped like `sample`: the first holds {misfits[0]}. Give a "
            "loader of batches (input, target), as in training; one batch alone is "
            "`probe=[(input, target)]`. Nothing was changed."
        )


def check_processes(model: nn.Module, optimizer: Optimizer) -> None:
    """Of several processes a session knows those of `DistributedDataParallel`, each with the whole network.

    Raises:
        ConfigError: they train it in another way.
    """
    if is_sharded(bare(model)):
        raise ConfigError(
            "This network is sharded over several processes (`fully_shard`), and a session knows only those "
            "that hold all of it. Nothing was changed. Use esper.anatomy.cut with a mask that one rank has "
            "decided and broadcast; docs/how-to-many-gpus.md shows how."
        )
    if is_inside_parallel(model):
        raise ConfigError(
            "Several processes train this network by the DistributedDataParallel around it, and what was "
            "given is its inside. Nothing was changed. Make the DistributedDataParallel first, and give "
            "esper.attach that."
        )
    if not is_parallel(model):
        return
    try:
        check_renewable(model)
    except SurgeryError as refusal:
        raise ConfigError(str(refusal)) from refusal
    if hasattr(optimizer, "consolidate_state_dict"):
        raise ConfigError(
            f"A {type(optimizer).__name__} keeps a part of its state in every process, and a session saves "
            "and cuts the state of one. Nothing was changed. Use the optimizer inside of it."
        )


def check_together(asked: RunRequest, settings: Config) -> None:
    """Refuses what only one process can do yet.

    Raises:
        ConfigError: it was asked for, and several processes train the network.
    """
    if asked.ranks is None:
        return
    if settings.pruning.recovery.distill:
        raise ConfigError(
            "Several processes train this network, and what it was before does not teach it under them yet. "
            "Nothing was changed. Leave out `pruning.recovery.distill`; a `teacher` of your own may teach."
        )
    if Level.LAYER in settings.pruning.levels:
        raise ConfigError(
            "Several processes train this network, and whole layers are removed in one. Nothing was changed. "
            'Leave "layer" out of the levels.'
        )
