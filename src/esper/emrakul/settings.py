"""How much may be pruned, when, at what risk, and in what time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from esper.cost import CostName
from esper.emrakul.stages import ScheduleSettings
from esper.leyline import Level
from esper.settings import Fraction, OpenFraction, PositiveCount, Seconds, Section

NonNegative = Annotated[float, Field(ge=0.0)]


class Target(Section):
    """What shall be gone at the end of the ramp; set exactly one. A plain number is a share of the FLOPs."""

    flops: OpenFraction | None = None
    """Share of the FLOPs of one forward pass to remove: 0.5 means at least 50 % fewer."""

    parameters: OpenFraction | None = None
    """Share of the parameters to remove."""

    latency: OpenFraction | None = None
    """Share of the time of a forward pass to remove, by a table that is measured when training starts."""

    latency_batch: PositiveCount = 64
    """Samples of the forward pass that `latency` is about."""

    @model_validator(mode="before")
    @classmethod
    def _of_number(cls, given: object) -> object:
        if isinstance(given, (int, float)) and not isinstance(given, bool):
            return {"flops": given}
        if isinstance(given, (Mapping, Target)):
            return given
        raise ValueError(
            f"{given!r} is no target: give a share of the FLOPs such as 0.5, or a cost by name: "
            '{"flops": 0.5}.'
        )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError(
                'A target names exactly one of flops, parameters and latency, for example {"flops": 0.5}.'
            )
        return self

    @property
    def cost(self) -> CostName:
        return next(iter(self._given()))

    @property
    def fraction(self) -> float:
        """Share to remove, above 0 and below 1."""
        return next(iter(self._given().values()))

    def _given(self) -> dict[CostName, float]:
        shares: dict[CostName, float | None] = {
            "flops": self.flops,
            "parameters": self.parameters,
            "latency": self.latency,
        }
        return {name: share for name, share in shares.items() if share is not None}


class FloorSettings(Section):
    """What every layer keeps.

    Where a target could not be reached above floors of channels that are unset, they are lowered together, as
    far as it takes to leave a choice.
    """

    min_channels: PositiveCount | None = None
    """Fewest channels that a layer keeps, unless it is too narrow for that (`narrow_keep_fraction`); unset:
    16, or fewer with a target that needs it."""

    narrow_keep_fraction: Fraction | None = None
    """Share of its channels that is enough where `min_channels` is more; unset: 1 when staged, else 0.5 or
    less."""

    min_keep_fraction: Fraction | None = None
    """Share of its channels that a layer keeps; unset: 0.8 when staged, 1 - target or less with a target, and
    half of that where a cut at once is chosen by loss."""

    min_heads: PositiveCount = 2
    """Fewest attention heads that a layer keeps."""

    min_layers: PositiveCount = 3
    """Fewest residual layers that the network keeps, where layers may go."""

    min_layers_fraction: Fraction = 0.8
    """Share of its residual layers that the network keeps at least."""


class PlanSettings(Section):
    """How units are chosen."""

    round_to: PositiveCount = 1
    """Leave a multiple of this many channels in every layer that is touched; of half, a quarter and so on as
    many in a layer that has fewer than twice as many. With a target that holds at the end of the ramp, which
    is planned first; steps on the way are as small as they like."""

    configurable: bool | Literal["if_possible"] = False
    """Remove the same number of units from all layers that are alike, and of a network with a configuration
    (`intermediate_size` of a `transformers` model) only what that can say, so that `save_pretrained` and
    `from_pretrained` work on what is left. `if_possible`: unless it can say nothing at all."""

    required_confidence: Fraction | None = None
    """Share of bootstrap resamples in which a unit must stay below the cut; unset: 0.95 when staged. With a
    target no unit is barred by it: what is judged is the plan as a whole, before and after, in pairs."""

    max_layer_fraction: Fraction | None = None
    """Most of its original units that one cycle may take from a layer, but at least one; unset: no limit but
    its floor."""

    activation_flops: NonNegative = 1000.0
    """What one element of an activation counts, in FLOPs, when units are compared by what they save: time
    follows elementwise work and memory too. Targets and caps count pure FLOPs; 0 compares by them as well."""

    interaction_margin: NonNegative = 0.5
    """Added share on the sum of single losses, because units removed together cost more than one by one. With
    a target they are measured together, and nothing is added."""

    allowed_loss_increase: NonNegative | None = None
    """Most that one plan may raise the predicted loss, in its units; unset: the validator alone decides."""

    finalist_factor: Annotated[float, Field(ge=1.0)] = 2.5
    """When staged: how much more than the allowance the finalists of an ablation would save together."""

    finalist_spread: Fraction = 0.25
    """When staged: share of what a layer may lose that is measured in any case, wherever the cheapest are."""

    min_finalists: PositiveCount = 16
    """Fewest units that one cycle ablates when staged: of a handful none is surely the least, so that where
    fewer can go others of their kind are measured beside them."""

    max_finalists: PositiveCount = 4096
    """Most units that one cycle ablates when staged."""

    healing_factor: Annotated[float, Field(ge=0.0, le=4.0)] = 1.0
    """How far the validator's limits give way for a target, where they refuse a plan. With a whole run ahead
    they are 1 + this many times as wide, because what goes early heals, and near its end as they are; as wide
    as at first for what is no more than an even share of what the steps that still fit must do. On the metric
    the limits of `rollback` hold as ever. 0: never."""

    max_attempts: PositiveCount = 4
    """How often a plan is offered to the validator in one cycle, each time half as costly, or an even share
    of what is left to do where that is more."""


class CutSettings(Section):
    """When settled masks are cut during training; the end of the run cuts all of them."""

    min_saved_fraction: Fraction = 0.05
    """Least share of the cost of the network as it is now that a cut must save: each costs a look at the new
    structure and a proof. Layers are cut to multiples of `round_to`, because other widths can be slower."""


class RecoverySettings(Section):
    """How a network makes up for what it loses, beside training on."""

    reconstruct: bool = True
    """Change the layers that read removed units so that they miss them least (least squares on the held-out
    calibration batches), when a mask is applied."""

    distill: bool = False
    """Let the run's own network from before the first mask teach what is left of it after every mask. Needs
    `session.loss(output, target, inputs)` in the training loop; costs a forward pass of the whole network."""

    distill_epochs: PositiveCount = 1
    """Epochs after every mask in which it teaches."""

    distill_stride: PositiveCount = 1
    """Teach in every such step only; 4: in every fourth."""

    distill_weight: Fraction = 0.5
    """Share of the loss that is about the teacher's output instead of the target."""

    distill_temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """Softens the classes of both networks: larger looks more at the unlikely ones."""


class BudgetSettings(Section):
    """What analyses may take, the time of one cycle, and what happens after failures."""

    compute_fraction: OpenFraction | None = 0.10
    """Share of the training's time that cycles may take, by what they cost in this run: it decides how many
    there are, and so how large their steps. Two in a run in any case, and as many as the target needs. Cuts
    on the way wait where they would take longer than they save. `None`: no limit, and no decision by the
    clock, so that equal runs decide alike."""

    deadline_seconds: Seconds = 300.0
    """Time for one cycle; passing it skips the cycle."""

    analysis_fraction: Fraction = 0.7
    """Share of the time for the analysis."""

    validation_fraction: Fraction = 0.2
    """Share of the time for the validation."""

    commit_fraction: Fraction = 0.1
    """Share of the time for the mask commit."""

    max_failures: PositiveCount = 3
    """Failed cycles or rollbacks in a row that stop pruning."""

    cooldown_epochs: PositiveCount = 5
    """Epochs until pruning goes on by itself after that."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = self.analysis_fraction + self.validation_fraction + self.commit_fraction
        if abs(total - 1) > 1e-6:
            raise ValueError(f"The shares of analysis, validation and commit sum to {total:g}, expected 1.")
        return self


class RollbackSettings(Section):
    """When a mask is taken back, and when it counts as settled."""

    channel_drop: Fraction = 0.02
    """Largest drop of the metric after channels were removed, in points of `metric_scale`."""

    head_drop: Fraction = 0.03
    """Largest drop after attention heads were removed."""

    layer_drop: Fraction = 0.05
    """Largest drop after layers were removed."""

    metric_scale: Annotated[float, Field(gt=0.0)] = 1.0
    """What a perfect metric reads where higher is better: 1 for a share, 100 for per cent."""

    noise_factor: NonNegative = 2.0
    """A drop over its limit by more than this many standard deviations of the metric leads back at once."""

    patience_epochs: PositiveCount = 2
    """Measured epochs in a row over the limit, or over `noise_factor` times the noise if that is more, that
    lead back as well."""

    divergence_sigma: NonNegative = 6.0
    """Loss divergence: this many standard deviations above the mean before, and ..."""

    divergence_factor: Annotated[float, Field(ge=1.0)] = 3.0
    """... this many times that mean, ..."""

    divergence_epochs: PositiveCount = 3
    """... in this many epochs in a row."""

    settle_epochs: PositiveCount = 1
    """Epochs that a mask must survive before it may be cut."""

    probation_epochs: PositiveCount = 2
    """The same for a mask that was accepted on probation."""

    def drop_for(self, level: Level) -> float:
        """The largest drop that `level` may cause, as a share of `metric_scale`."""
        drops = {Level.CHANNEL: self.channel_drop, Level.HEAD: self.head_drop, Level.LAYER: self.layer_drop}
        return drops[level]


class Settings(Section):
    """Everything that steers pruning; off until a target or the stages are asked for."""

    target: Target | None = None
    """What shall be gone at the end: `{"flops": 0.5}`, or `0.5` for the same."""

    staged: bool = False
    """Follow the stages instead of a target: small caps, one kind of unit after the other."""

    staged_cost: Literal["flops", "parameters"] = "flops"
    """What the caps of the stages count."""

    schedule: ScheduleSettings = ScheduleSettings()
    """When it happens."""

    floors: FloorSettings = FloorSettings()
    """What every layer keeps."""

    plan: PlanSettings = PlanSettings()
    """How units are chosen."""

    cut: CutSettings = CutSettings()
    """When masks are cut."""

    recovery: RecoverySettings = RecoverySettings()
    """How losses are made up for."""

    budget: BudgetSettings = BudgetSettings()
    """The time of one cycle, and the breaker."""

    rollback: RollbackSettings = RollbackSettings()
    """When a mask is taken back."""

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.target is not None and self.staged:
            raise ValueError(
                "target and staged exclude each other: a target replaces the caps of the stages."
            )
        return self

    @model_validator(mode="after")
    def _layers_are_not_timed(self) -> Self:
        if self.target is not None and self.target.cost == "latency" and Level.LAYER in self.levels:
            raise ValueError(
                "A latency target removes channels and heads: the table that it goes by knows no whole "
                'layers. Leave "layer" out of schedule.levels, or set a target of flops.'
            )
        return self

    @property
    def levels(self) -> frozenset[Level]:
        """What may be removed at any time."""
        stages = self.schedule.stages if self.staged else ()
        aimed = self.schedule.levels if self.target is not None else ()
        return frozenset(aimed).union(*(stage.levels for stage in stages))

    @property
    def is_enabled(self) -> bool:
        return self.target is not None or self.staged

    @property
    def timed_batch(self) -> int | None:
        """Samples of the pass whose time is the target; None where the target is another cost."""
        target = self.target
        return None if target is None or target.latency is None else target.latency_batch

    @property
    def cost(self) -> CostName:
        """What fractions count."""
        return self.target.cost if self.target else self.staged_cost

    @property
    def required_confidence(self) -> float:
        """Share of bootstrap resamples in which every unit of a plan must stay below the cut."""
        asked = self.plan.required_confidence
        if asked is not None:
            return asked
        return 0.0 if self.target else 0.95

    @property
    def measures_together(self) -> bool:
        """Whether units are judged by what their layer costs as it gets narrower, instead of one by one."""
        return self.target is not None

    @property
    def min_channels(self) -> int:
        """Fewest channels that every layer keeps that is not too narrow for it."""
        return 16 if self.floors.min_channels is None else self.floors.min_channels

    @property
    def min_keep_fraction(self) -> float:
        """Share of its channels that every layer keeps."""
        if self.floors.min_keep_fraction is not None:
            return self.floors.min_keep_fraction
        return 1 - self.target.fraction if self.target else 0.8

    @property
    def narrow_keep_fraction(self) -> float:
        """Share of its channels that a narrow layer keeps."""
        if self.floors.narrow_keep_fraction is not None:
            return self.floors.narrow_keep_fraction
        return 0.5 if self.target else 1.0
