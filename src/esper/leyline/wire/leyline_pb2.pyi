from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SeedLifecycleStage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEED_STAGE_UNKNOWN: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_DORMANT: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_GERMINATED: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_TRAINING: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_BLENDING: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_SHADOWING: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_PROBATIONARY: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_FOSSILIZED: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_CULLED: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_EMBARGOED: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_RESETTING: _ClassVar[SeedLifecycleStage]
    SEED_STAGE_TERMINATED: _ClassVar[SeedLifecycleStage]

class SeedLifecycleGate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEED_GATE_UNKNOWN: _ClassVar[SeedLifecycleGate]
    SEED_GATE_G0_SANITY: _ClassVar[SeedLifecycleGate]
    SEED_GATE_G1_GRADIENT_HEALTH: _ClassVar[SeedLifecycleGate]
    SEED_GATE_G2_STABILITY: _ClassVar[SeedLifecycleGate]
    SEED_GATE_G3_INTERFACE: _ClassVar[SeedLifecycleGate]
    SEED_GATE_G4_SYSTEM_IMPACT: _ClassVar[SeedLifecycleGate]
    SEED_GATE_G5_RESET: _ClassVar[SeedLifecycleGate]

class PruningPhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRUNING_PHASE_UNKNOWN: _ClassVar[PruningPhase]
    PRUNING_PHASE_OFF: _ClassVar[PruningPhase]
    PRUNING_PHASE_MEASURING: _ClassVar[PruningPhase]
    PRUNING_PHASE_ANALYZING: _ClassVar[PruningPhase]
    PRUNING_PHASE_PENDING: _ClassVar[PruningPhase]
    PRUNING_PHASE_ON_TRIAL: _ClassVar[PruningPhase]

class PruningDecision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRUNING_DECISION_UNKNOWN: _ClassVar[PruningDecision]
    PRUNING_DECISION_GO: _ClassVar[PruningDecision]
    PRUNING_DECISION_NO_GO: _ClassVar[PruningDecision]
    PRUNING_DECISION_CONDITIONAL_GO: _ClassVar[PruningDecision]

class MaskKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_KIND_UNKNOWN: _ClassVar[MaskKind]
    MASK_KIND_CHANNEL: _ClassVar[MaskKind]
    MASK_KIND_HEAD: _ClassVar[MaskKind]
    MASK_KIND_LAYER: _ClassVar[MaskKind]

class HealthStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEALTH_STATUS_UNKNOWN: _ClassVar[HealthStatus]
    HEALTH_STATUS_HEALTHY: _ClassVar[HealthStatus]
    HEALTH_STATUS_DEGRADED: _ClassVar[HealthStatus]
    HEALTH_STATUS_FAILED: _ClassVar[HealthStatus]

class BreakerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BREAKER_STATE_UNKNOWN: _ClassVar[BreakerState]
    BREAKER_STATE_CLOSED: _ClassVar[BreakerState]
    BREAKER_STATE_OPEN: _ClassVar[BreakerState]
    BREAKER_STATE_HALF_OPEN: _ClassVar[BreakerState]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNKNOWN: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]
    PRIORITY_CRITICAL: _ClassVar[Priority]

class AdaptationAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ADAPTATION_ACTION_UNKNOWN: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_REPORT: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_ROLL_BACK: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_VETO: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_CLOSE_BREAKER: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_GROW: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_CULL: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_PAUSE_SEED: _ClassVar[AdaptationAction]
    ADAPTATION_ACTION_UNPAUSE_SEED: _ClassVar[AdaptationAction]

class CommandStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMMAND_STATUS_UNKNOWN: _ClassVar[CommandStatus]
    COMMAND_STATUS_WAITING: _ClassVar[CommandStatus]
    COMMAND_STATUS_DONE: _ClassVar[CommandStatus]
    COMMAND_STATUS_REFUSED: _ClassVar[CommandStatus]

class OptimizerAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPTIMIZER_ACTION_UNKNOWN: _ClassVar[OptimizerAction]
    OPTIMIZER_ACTION_STEP: _ClassVar[OptimizerAction]
    OPTIMIZER_ACTION_ZERO_GRAD: _ClassVar[OptimizerAction]
    OPTIMIZER_ACTION_SET_LEARNING_RATE: _ClassVar[OptimizerAction]

class CycleStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CYCLE_STATUS_UNKNOWN: _ClassVar[CycleStatus]
    CYCLE_STATUS_ACCEPTED: _ClassVar[CycleStatus]
    CYCLE_STATUS_SKIPPED: _ClassVar[CycleStatus]
    CYCLE_STATUS_REJECTED: _ClassVar[CycleStatus]
    CYCLE_STATUS_FAILED: _ClassVar[CycleStatus]
SEED_STAGE_UNKNOWN: SeedLifecycleStage
SEED_STAGE_DORMANT: SeedLifecycleStage
SEED_STAGE_GERMINATED: SeedLifecycleStage
SEED_STAGE_TRAINING: SeedLifecycleStage
SEED_STAGE_BLENDING: SeedLifecycleStage
SEED_STAGE_SHADOWING: SeedLifecycleStage
SEED_STAGE_PROBATIONARY: SeedLifecycleStage
SEED_STAGE_FOSSILIZED: SeedLifecycleStage
SEED_STAGE_CULLED: SeedLifecycleStage
SEED_STAGE_EMBARGOED: SeedLifecycleStage
SEED_STAGE_RESETTING: SeedLifecycleStage
SEED_STAGE_TERMINATED: SeedLifecycleStage
SEED_GATE_UNKNOWN: SeedLifecycleGate
SEED_GATE_G0_SANITY: SeedLifecycleGate
SEED_GATE_G1_GRADIENT_HEALTH: SeedLifecycleGate
SEED_GATE_G2_STABILITY: SeedLifecycleGate
SEED_GATE_G3_INTERFACE: SeedLifecycleGate
SEED_GATE_G4_SYSTEM_IMPACT: SeedLifecycleGate
SEED_GATE_G5_RESET: SeedLifecycleGate
PRUNING_PHASE_UNKNOWN: PruningPhase
PRUNING_PHASE_OFF: PruningPhase
PRUNING_PHASE_MEASURING: PruningPhase
PRUNING_PHASE_ANALYZING: PruningPhase
PRUNING_PHASE_PENDING: PruningPhase
PRUNING_PHASE_ON_TRIAL: PruningPhase
PRUNING_DECISION_UNKNOWN: PruningDecision
PRUNING_DECISION_GO: PruningDecision
PRUNING_DECISION_NO_GO: PruningDecision
PRUNING_DECISION_CONDITIONAL_GO: PruningDecision
MASK_KIND_UNKNOWN: MaskKind
MASK_KIND_CHANNEL: MaskKind
MASK_KIND_HEAD: MaskKind
MASK_KIND_LAYER: MaskKind
HEALTH_STATUS_UNKNOWN: HealthStatus
HEALTH_STATUS_HEALTHY: HealthStatus
HEALTH_STATUS_DEGRADED: HealthStatus
HEALTH_STATUS_FAILED: HealthStatus
BREAKER_STATE_UNKNOWN: BreakerState
BREAKER_STATE_CLOSED: BreakerState
BREAKER_STATE_OPEN: BreakerState
BREAKER_STATE_HALF_OPEN: BreakerState
PRIORITY_UNKNOWN: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority
PRIORITY_CRITICAL: Priority
ADAPTATION_ACTION_UNKNOWN: AdaptationAction
ADAPTATION_ACTION_REPORT: AdaptationAction
ADAPTATION_ACTION_ROLL_BACK: AdaptationAction
ADAPTATION_ACTION_VETO: AdaptationAction
ADAPTATION_ACTION_CLOSE_BREAKER: AdaptationAction
ADAPTATION_ACTION_GROW: AdaptationAction
ADAPTATION_ACTION_CULL: AdaptationAction
ADAPTATION_ACTION_PAUSE_SEED: AdaptationAction
ADAPTATION_ACTION_UNPAUSE_SEED: AdaptationAction
COMMAND_STATUS_UNKNOWN: CommandStatus
COMMAND_STATUS_WAITING: CommandStatus
COMMAND_STATUS_DONE: CommandStatus
COMMAND_STATUS_REFUSED: CommandStatus
OPTIMIZER_ACTION_UNKNOWN: OptimizerAction
OPTIMIZER_ACTION_STEP: OptimizerAction
OPTIMIZER_ACTION_ZERO_GRAD: OptimizerAction
OPTIMIZER_ACTION_SET_LEARNING_RATE: OptimizerAction
CYCLE_STATUS_UNKNOWN: CycleStatus
CYCLE_STATUS_ACCEPTED: CycleStatus
CYCLE_STATUS_SKIPPED: CycleStatus
CYCLE_STATUS_REJECTED: CycleStatus
CYCLE_STATUS_FAILED: CycleStatus

class ArrayReference(_message.Message):
    __slots__ = ("file", "blake3", "name", "dtype", "shape")
    FILE_FIELD_NUMBER: _ClassVar[int]
    BLAKE3_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    file: str
    blake3: str
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, file: _Optional[str] = ..., blake3: _Optional[str] = ..., name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ParameterIdentifier(_message.Message):
    __slots__ = ("id", "name", "shape", "dtype")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ...) -> None: ...

class CheckpointMetadata(_message.Message):
    __slots__ = ("version", "run", "step", "epoch", "digest", "created_seconds")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CREATED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    version: int
    run: str
    step: int
    epoch: int
    digest: str
    created_seconds: float
    def __init__(self, version: _Optional[int] = ..., run: _Optional[str] = ..., step: _Optional[int] = ..., epoch: _Optional[int] = ..., digest: _Optional[str] = ..., created_seconds: _Optional[float] = ...) -> None: ...

class PrunedArchitecture(_message.Message):
    __slots__ = ("version", "anatomy_digest", "num_units", "gone", "origin_cost", "cost", "parameters")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ANATOMY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    NUM_UNITS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_COST_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    version: int
    anatomy_digest: str
    num_units: int
    gone: _containers.RepeatedScalarFieldContainer[int]
    origin_cost: float
    cost: str
    parameters: int
    def __init__(self, version: _Optional[int] = ..., anatomy_digest: _Optional[str] = ..., num_units: _Optional[int] = ..., gone: _Optional[_Iterable[int]] = ..., origin_cost: _Optional[float] = ..., cost: _Optional[str] = ..., parameters: _Optional[int] = ...) -> None: ...

class SeedState(_message.Message):
    __slots__ = ("slot", "stage", "blueprint", "generation", "alpha", "steps_in_stage", "epochs_in_stage", "is_paused", "gate", "evidence", "parameters")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    STEPS_IN_STAGE_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_IN_STAGE_FIELD_NUMBER: _ClassVar[int]
    IS_PAUSED_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    slot: str
    stage: SeedLifecycleStage
    blueprint: str
    generation: int
    alpha: float
    steps_in_stage: int
    epochs_in_stage: int
    is_paused: bool
    gate: SeedLifecycleGate
    evidence: str
    parameters: int
    def __init__(self, slot: _Optional[str] = ..., stage: _Optional[_Union[SeedLifecycleStage, str]] = ..., blueprint: _Optional[str] = ..., generation: _Optional[int] = ..., alpha: _Optional[float] = ..., steps_in_stage: _Optional[int] = ..., epochs_in_stage: _Optional[int] = ..., is_paused: _Optional[bool] = ..., gate: _Optional[_Union[SeedLifecycleGate, str]] = ..., evidence: _Optional[str] = ..., parameters: _Optional[int] = ...) -> None: ...

class SystemStatePacket(_message.Message):
    __slots__ = ("version", "run", "at_seconds", "epoch", "step", "phase", "breaker", "workers", "metrics", "seeds", "units", "masked_units", "removed_fraction", "cost", "parameters", "checkpoint")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    AT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    BREAKER_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    MASKED_UNITS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    version: int
    run: str
    at_seconds: float
    epoch: int
    step: int
    phase: PruningPhase
    breaker: BreakerState
    workers: HealthStatus
    metrics: _containers.ScalarMap[str, float]
    seeds: _containers.RepeatedCompositeFieldContainer[SeedState]
    units: int
    masked_units: int
    removed_fraction: float
    cost: str
    parameters: int
    checkpoint: CheckpointMetadata
    def __init__(self, version: _Optional[int] = ..., run: _Optional[str] = ..., at_seconds: _Optional[float] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., phase: _Optional[_Union[PruningPhase, str]] = ..., breaker: _Optional[_Union[BreakerState, str]] = ..., workers: _Optional[_Union[HealthStatus, str]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., seeds: _Optional[_Iterable[_Union[SeedState, _Mapping]]] = ..., units: _Optional[int] = ..., masked_units: _Optional[int] = ..., removed_fraction: _Optional[float] = ..., cost: _Optional[str] = ..., parameters: _Optional[int] = ..., checkpoint: _Optional[_Union[CheckpointMetadata, _Mapping]] = ...) -> None: ...

class AdaptationCommand(_message.Message):
    __slots__ = ("version", "idempotency_key", "action", "by", "slot", "blueprint", "reason", "rollback")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    action: AdaptationAction
    by: str
    slot: str
    blueprint: str
    reason: str
    rollback: RollbackRequest
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., action: _Optional[_Union[AdaptationAction, str]] = ..., by: _Optional[str] = ..., slot: _Optional[str] = ..., blueprint: _Optional[str] = ..., reason: _Optional[str] = ..., rollback: _Optional[_Union[RollbackRequest, _Mapping]] = ...) -> None: ...

class RollbackRequest(_message.Message):
    __slots__ = ("version", "to_step", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TO_STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    to_step: int
    reason: str
    def __init__(self, version: _Optional[int] = ..., to_step: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class AdaptationReport(_message.Message):
    __slots__ = ("version", "idempotency_key", "status", "text", "state")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    status: CommandStatus
    text: str
    state: SystemStatePacket
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., status: _Optional[_Union[CommandStatus, str]] = ..., text: _Optional[str] = ..., state: _Optional[_Union[SystemStatePacket, _Mapping]] = ...) -> None: ...

class OptimizerCommand(_message.Message):
    __slots__ = ("version", "idempotency_key", "action", "owner", "learning_rate", "max_norm")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    MAX_NORM_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    action: OptimizerAction
    owner: str
    learning_rate: float
    max_norm: float
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., action: _Optional[_Union[OptimizerAction, str]] = ..., owner: _Optional[str] = ..., learning_rate: _Optional[float] = ..., max_norm: _Optional[float] = ...) -> None: ...

class OptimizerStepReport(_message.Message):
    __slots__ = ("version", "idempotency_key", "owner", "step", "gradient_norm", "was_skipped", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    WAS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    owner: str
    step: int
    gradient_norm: float
    was_skipped: bool
    reason: str
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., owner: _Optional[str] = ..., step: _Optional[int] = ..., gradient_norm: _Optional[float] = ..., was_skipped: _Optional[bool] = ..., reason: _Optional[str] = ...) -> None: ...

class TelemetryEvent(_message.Message):
    __slots__ = ("version", "kind", "by", "priority", "at_seconds", "epoch", "text", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    AT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    version: int
    kind: str
    by: str
    priority: Priority
    at_seconds: float
    epoch: int
    text: str
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, version: _Optional[int] = ..., kind: _Optional[str] = ..., by: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., at_seconds: _Optional[float] = ..., epoch: _Optional[int] = ..., text: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class TelemetryPacket(_message.Message):
    __slots__ = ("version", "region", "sequence", "events", "dropped")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    version: int
    region: str
    sequence: int
    events: _containers.RepeatedCompositeFieldContainer[TelemetryEvent]
    dropped: int
    def __init__(self, version: _Optional[int] = ..., region: _Optional[str] = ..., sequence: _Optional[int] = ..., events: _Optional[_Iterable[_Union[TelemetryEvent, _Mapping]]] = ..., dropped: _Optional[int] = ...) -> None: ...

class MetricSummary(_message.Message):
    __slots__ = ("count", "sum", "sum_of_squares", "min", "max", "not_finite", "sum_rest", "sum_of_squares_rest", "bucket_steps", "bucket_counts")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    SUM_OF_SQUARES_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    NOT_FINITE_FIELD_NUMBER: _ClassVar[int]
    SUM_REST_FIELD_NUMBER: _ClassVar[int]
    SUM_OF_SQUARES_REST_FIELD_NUMBER: _ClassVar[int]
    BUCKET_STEPS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_COUNTS_FIELD_NUMBER: _ClassVar[int]
    count: int
    sum: float
    sum_of_squares: float
    min: float
    max: float
    not_finite: int
    sum_rest: _containers.RepeatedScalarFieldContainer[float]
    sum_of_squares_rest: _containers.RepeatedScalarFieldContainer[float]
    bucket_steps: _containers.RepeatedScalarFieldContainer[int]
    bucket_counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, count: _Optional[int] = ..., sum: _Optional[float] = ..., sum_of_squares: _Optional[float] = ..., min: _Optional[float] = ..., max: _Optional[float] = ..., not_finite: _Optional[int] = ..., sum_rest: _Optional[_Iterable[float]] = ..., sum_of_squares_rest: _Optional[_Iterable[float]] = ..., bucket_steps: _Optional[_Iterable[int]] = ..., bucket_counts: _Optional[_Iterable[int]] = ...) -> None: ...

class RegionSummary(_message.Message):
    __slots__ = ("version", "region", "senders", "metrics", "dropped")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: MetricSummary
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[MetricSummary, _Mapping]] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    SENDERS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    version: int
    region: str
    senders: int
    metrics: _containers.MessageMap[str, MetricSummary]
    dropped: int
    def __init__(self, version: _Optional[int] = ..., region: _Optional[str] = ..., senders: _Optional[int] = ..., metrics: _Optional[_Mapping[str, MetricSummary]] = ..., dropped: _Optional[int] = ...) -> None: ...

class AnalysisMetrics(_message.Message):
    __slots__ = ("version", "cycles", "accepted", "failed", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CYCLES_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    version: int
    cycles: int
    accepted: int
    failed: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, version: _Optional[int] = ..., cycles: _Optional[int] = ..., accepted: _Optional[int] = ..., failed: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class ImportanceStats(_message.Message):
    __slots__ = ("version", "checkpoint", "sampled_steps", "scores")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_STEPS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    version: int
    checkpoint: CheckpointMetadata
    sampled_steps: int
    scores: ArrayReference
    def __init__(self, version: _Optional[int] = ..., checkpoint: _Optional[_Union[CheckpointMetadata, _Mapping]] = ..., sampled_steps: _Optional[int] = ..., scores: _Optional[_Union[ArrayReference, _Mapping]] = ...) -> None: ...

class ImportanceData(_message.Message):
    __slots__ = ("version", "parameters", "arrays")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    version: int
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterIdentifier]
    arrays: _containers.RepeatedCompositeFieldContainer[ArrayReference]
    def __init__(self, version: _Optional[int] = ..., parameters: _Optional[_Iterable[_Union[ParameterIdentifier, _Mapping]]] = ..., arrays: _Optional[_Iterable[_Union[ArrayReference, _Mapping]]] = ...) -> None: ...

class ChannelImportanceData(_message.Message):
    __slots__ = ("layer_name", "taylor_importance", "magnitude_importance", "activation_frequency", "channel_correlations")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    TAYLOR_IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    MAGNITUDE_IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FREQUENCY_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_CORRELATIONS_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    taylor_importance: _containers.RepeatedScalarFieldContainer[float]
    magnitude_importance: _containers.RepeatedScalarFieldContainer[float]
    activation_frequency: _containers.RepeatedScalarFieldContainer[float]
    channel_correlations: ArrayReference
    def __init__(self, layer_name: _Optional[str] = ..., taylor_importance: _Optional[_Iterable[float]] = ..., magnitude_importance: _Optional[_Iterable[float]] = ..., activation_frequency: _Optional[_Iterable[float]] = ..., channel_correlations: _Optional[_Union[ArrayReference, _Mapping]] = ...) -> None: ...

class AnalysisParameters(_message.Message):
    __slots__ = ("cost", "goal_fraction", "limit_fraction", "levels", "stage", "reason", "end_fraction", "progress", "steps_left", "steps_paid")
    COST_FIELD_NUMBER: _ClassVar[int]
    GOAL_FRACTION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FRACTION_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    END_FRACTION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    STEPS_LEFT_FIELD_NUMBER: _ClassVar[int]
    STEPS_PAID_FIELD_NUMBER: _ClassVar[int]
    cost: str
    goal_fraction: float
    limit_fraction: float
    levels: _containers.RepeatedScalarFieldContainer[MaskKind]
    stage: str
    reason: str
    end_fraction: float
    progress: float
    steps_left: float
    steps_paid: float
    def __init__(self, cost: _Optional[str] = ..., goal_fraction: _Optional[float] = ..., limit_fraction: _Optional[float] = ..., levels: _Optional[_Iterable[_Union[MaskKind, str]]] = ..., stage: _Optional[str] = ..., reason: _Optional[str] = ..., end_fraction: _Optional[float] = ..., progress: _Optional[float] = ..., steps_left: _Optional[float] = ..., steps_paid: _Optional[float] = ...) -> None: ...

class PerformanceRequirements(_message.Message):
    __slots__ = ("max_loss_increase", "min_retention", "memory_bytes")
    MAX_LOSS_INCREASE_FIELD_NUMBER: _ClassVar[int]
    MIN_RETENTION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_loss_increase: float
    min_retention: float
    memory_bytes: int
    def __init__(self, max_loss_increase: _Optional[float] = ..., min_retention: _Optional[float] = ..., memory_bytes: _Optional[int] = ...) -> None: ...

class StructuralAnalysisRequest(_message.Message):
    __slots__ = ("version", "idempotency_key", "current_architecture", "parameters", "requirements", "timeout_seconds", "checkpoint")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CURRENT_ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    REQUIREMENTS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    current_architecture: PrunedArchitecture
    parameters: AnalysisParameters
    requirements: PerformanceRequirements
    timeout_seconds: float
    checkpoint: CheckpointMetadata
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., current_architecture: _Optional[_Union[PrunedArchitecture, _Mapping]] = ..., parameters: _Optional[_Union[AnalysisParameters, _Mapping]] = ..., requirements: _Optional[_Union[PerformanceRequirements, _Mapping]] = ..., timeout_seconds: _Optional[float] = ..., checkpoint: _Optional[_Union[CheckpointMetadata, _Mapping]] = ...) -> None: ...

class UnitNumbers(_message.Message):
    __slots__ = ("order", "block", "screen", "loss_increase", "confidence", "predicted_loss", "saved_cost", "units")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    SCREEN_FIELD_NUMBER: _ClassVar[int]
    LOSS_INCREASE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_LOSS_FIELD_NUMBER: _ClassVar[int]
    SAVED_COST_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    order: _containers.RepeatedScalarFieldContainer[int]
    block: _containers.RepeatedScalarFieldContainer[int]
    screen: _containers.RepeatedScalarFieldContainer[float]
    loss_increase: _containers.RepeatedScalarFieldContainer[float]
    confidence: _containers.RepeatedScalarFieldContainer[float]
    predicted_loss: _containers.RepeatedScalarFieldContainer[float]
    saved_cost: _containers.RepeatedScalarFieldContainer[float]
    units: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, order: _Optional[_Iterable[int]] = ..., block: _Optional[_Iterable[int]] = ..., screen: _Optional[_Iterable[float]] = ..., loss_increase: _Optional[_Iterable[float]] = ..., confidence: _Optional[_Iterable[float]] = ..., predicted_loss: _Optional[_Iterable[float]] = ..., saved_cost: _Optional[_Iterable[float]] = ..., units: _Optional[_Iterable[int]] = ...) -> None: ...

class ChannelPruningTarget(_message.Message):
    __slots__ = ("layer_name", "channel_indices", "kind", "numbers")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_INDICES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    channel_indices: _containers.RepeatedScalarFieldContainer[int]
    kind: str
    numbers: UnitNumbers
    def __init__(self, layer_name: _Optional[str] = ..., channel_indices: _Optional[_Iterable[int]] = ..., kind: _Optional[str] = ..., numbers: _Optional[_Union[UnitNumbers, _Mapping]] = ...) -> None: ...

class HeadRedundancy(_message.Message):
    __slots__ = ("head", "other", "similarity")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    OTHER_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    head: int
    other: int
    similarity: float
    def __init__(self, head: _Optional[int] = ..., other: _Optional[int] = ..., similarity: _Optional[float] = ...) -> None: ...

class AttentionHeadTarget(_message.Message):
    __slots__ = ("layer_name", "head_indices", "kind", "redundancy_pairs", "redundancy_threshold", "head_importance", "attention_entropy", "numbers")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    HEAD_INDICES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    REDUNDANCY_PAIRS_FIELD_NUMBER: _ClassVar[int]
    REDUNDANCY_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    HEAD_IMPORTANCE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_ENTROPY_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    head_indices: _containers.RepeatedScalarFieldContainer[int]
    kind: str
    redundancy_pairs: _containers.RepeatedCompositeFieldContainer[HeadRedundancy]
    redundancy_threshold: float
    head_importance: _containers.RepeatedScalarFieldContainer[float]
    attention_entropy: _containers.RepeatedScalarFieldContainer[float]
    numbers: UnitNumbers
    def __init__(self, layer_name: _Optional[str] = ..., head_indices: _Optional[_Iterable[int]] = ..., kind: _Optional[str] = ..., redundancy_pairs: _Optional[_Iterable[_Union[HeadRedundancy, _Mapping]]] = ..., redundancy_threshold: _Optional[float] = ..., head_importance: _Optional[_Iterable[float]] = ..., attention_entropy: _Optional[_Iterable[float]] = ..., numbers: _Optional[_Union[UnitNumbers, _Mapping]] = ...) -> None: ...

class LayerPruningTarget(_message.Message):
    __slots__ = ("layer_name", "indices", "kind", "numbers")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    indices: _containers.RepeatedScalarFieldContainer[int]
    kind: str
    numbers: UnitNumbers
    def __init__(self, layer_name: _Optional[str] = ..., indices: _Optional[_Iterable[int]] = ..., kind: _Optional[str] = ..., numbers: _Optional[_Union[UnitNumbers, _Mapping]] = ...) -> None: ...

class HeldBack(_message.Message):
    __slots__ = ("reason", "units")
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    units: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, reason: _Optional[str] = ..., units: _Optional[_Iterable[int]] = ...) -> None: ...

class PruningStatistics(_message.Message):
    __slots__ = ("before", "goal_fraction", "limit_fraction", "removed_before", "removed_after", "allowed_loss", "level", "rejected", "notes", "leeway")
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    GOAL_FRACTION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FRACTION_FIELD_NUMBER: _ClassVar[int]
    REMOVED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    REMOVED_AFTER_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_LOSS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    LEEWAY_FIELD_NUMBER: _ClassVar[int]
    before: PrunedArchitecture
    goal_fraction: float
    limit_fraction: float
    removed_before: float
    removed_after: float
    allowed_loss: float
    level: MaskKind
    rejected: _containers.RepeatedCompositeFieldContainer[HeldBack]
    notes: _containers.RepeatedScalarFieldContainer[str]
    leeway: float
    def __init__(self, before: _Optional[_Union[PrunedArchitecture, _Mapping]] = ..., goal_fraction: _Optional[float] = ..., limit_fraction: _Optional[float] = ..., removed_before: _Optional[float] = ..., removed_after: _Optional[float] = ..., allowed_loss: _Optional[float] = ..., level: _Optional[_Union[MaskKind, str]] = ..., rejected: _Optional[_Iterable[_Union[HeldBack, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., leeway: _Optional[float] = ...) -> None: ...

class ValidationCheck(_message.Message):
    __slots__ = ("name", "passed", "value", "limit", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    passed: bool
    value: float
    limit: float
    text: str
    def __init__(self, name: _Optional[str] = ..., passed: _Optional[bool] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class QualityRetention(_message.Message):
    __slots__ = ("measure", "before", "after", "drop", "lower", "upper", "limit", "samples")
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    UPPER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    measure: str
    before: float
    after: float
    drop: float
    lower: float
    upper: float
    limit: float
    samples: int
    def __init__(self, measure: _Optional[str] = ..., before: _Optional[float] = ..., after: _Optional[float] = ..., drop: _Optional[float] = ..., lower: _Optional[float] = ..., upper: _Optional[float] = ..., limit: _Optional[float] = ..., samples: _Optional[int] = ...) -> None: ...

class SafetyValidation(_message.Message):
    __slots__ = ("decision", "reason", "checks", "retention", "duration_seconds")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    decision: PruningDecision
    reason: str
    checks: _containers.RepeatedCompositeFieldContainer[ValidationCheck]
    retention: QualityRetention
    duration_seconds: float
    def __init__(self, decision: _Optional[_Union[PruningDecision, str]] = ..., reason: _Optional[str] = ..., checks: _Optional[_Iterable[_Union[ValidationCheck, _Mapping]]] = ..., retention: _Optional[_Union[QualityRetention, _Mapping]] = ..., duration_seconds: _Optional[float] = ...) -> None: ...

class StructuralPruningDecision(_message.Message):
    __slots__ = ("version", "idempotency_key", "channels", "attention_heads", "layers", "statistics", "safety", "approved_for_application", "rejection_reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_HEADS_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    STATISTICS_FIELD_NUMBER: _ClassVar[int]
    SAFETY_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FOR_APPLICATION_FIELD_NUMBER: _ClassVar[int]
    REJECTION_REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    channels: _containers.RepeatedCompositeFieldContainer[ChannelPruningTarget]
    attention_heads: _containers.RepeatedCompositeFieldContainer[AttentionHeadTarget]
    layers: _containers.RepeatedCompositeFieldContainer[LayerPruningTarget]
    statistics: PruningStatistics
    safety: SafetyValidation
    approved_for_application: bool
    rejection_reason: str
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., channels: _Optional[_Iterable[_Union[ChannelPruningTarget, _Mapping]]] = ..., attention_heads: _Optional[_Iterable[_Union[AttentionHeadTarget, _Mapping]]] = ..., layers: _Optional[_Iterable[_Union[LayerPruningTarget, _Mapping]]] = ..., statistics: _Optional[_Union[PruningStatistics, _Mapping]] = ..., safety: _Optional[_Union[SafetyValidation, _Mapping]] = ..., approved_for_application: _Optional[bool] = ..., rejection_reason: _Optional[str] = ...) -> None: ...

class PruningValidationRequest(_message.Message):
    __slots__ = ("version", "idempotency_key", "checkpoint", "proposal")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    checkpoint: CheckpointMetadata
    proposal: StructuralPruningDecision
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., checkpoint: _Optional[_Union[CheckpointMetadata, _Mapping]] = ..., proposal: _Optional[_Union[StructuralPruningDecision, _Mapping]] = ...) -> None: ...

class StructuralValidationResult(_message.Message):
    __slots__ = ("version", "idempotency_key", "safety")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    SAFETY_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    safety: SafetyValidation
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., safety: _Optional[_Union[SafetyValidation, _Mapping]] = ...) -> None: ...

class FinalistTable(_message.Message):
    __slots__ = ("units", "names", "kinds", "reasons", "tiers", "screen", "loss_increase", "confidence", "predicted_loss", "saved_fraction")
    UNITS_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    TIERS_FIELD_NUMBER: _ClassVar[int]
    SCREEN_FIELD_NUMBER: _ClassVar[int]
    LOSS_INCREASE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_LOSS_FIELD_NUMBER: _ClassVar[int]
    SAVED_FRACTION_FIELD_NUMBER: _ClassVar[int]
    units: _containers.RepeatedScalarFieldContainer[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    kinds: _containers.RepeatedScalarFieldContainer[str]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    tiers: _containers.RepeatedScalarFieldContainer[int]
    screen: _containers.RepeatedScalarFieldContainer[float]
    loss_increase: _containers.RepeatedScalarFieldContainer[float]
    confidence: _containers.RepeatedScalarFieldContainer[float]
    predicted_loss: _containers.RepeatedScalarFieldContainer[float]
    saved_fraction: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, units: _Optional[_Iterable[int]] = ..., names: _Optional[_Iterable[str]] = ..., kinds: _Optional[_Iterable[str]] = ..., reasons: _Optional[_Iterable[str]] = ..., tiers: _Optional[_Iterable[int]] = ..., screen: _Optional[_Iterable[float]] = ..., loss_increase: _Optional[_Iterable[float]] = ..., confidence: _Optional[_Iterable[float]] = ..., predicted_loss: _Optional[_Iterable[float]] = ..., saved_fraction: _Optional[_Iterable[float]] = ...) -> None: ...

class AnalysisReport(_message.Message):
    __slots__ = ("version", "idempotency_key", "anatomy_digest", "status", "reason", "parameters", "decision", "refused", "finalists", "error", "is_late", "duration_seconds", "memory")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    ANATOMY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FINALISTS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    IS_LATE_FIELD_NUMBER: _ClassVar[int]
    DURATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    anatomy_digest: str
    status: CycleStatus
    reason: str
    parameters: AnalysisParameters
    decision: StructuralPruningDecision
    refused: _containers.RepeatedCompositeFieldContainer[SafetyValidation]
    finalists: FinalistTable
    error: str
    is_late: bool
    duration_seconds: float
    memory: bytes
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., anatomy_digest: _Optional[str] = ..., status: _Optional[_Union[CycleStatus, str]] = ..., reason: _Optional[str] = ..., parameters: _Optional[_Union[AnalysisParameters, _Mapping]] = ..., decision: _Optional[_Union[StructuralPruningDecision, _Mapping]] = ..., refused: _Optional[_Iterable[_Union[SafetyValidation, _Mapping]]] = ..., finalists: _Optional[_Union[FinalistTable, _Mapping]] = ..., error: _Optional[str] = ..., is_late: _Optional[bool] = ..., duration_seconds: _Optional[float] = ..., memory: _Optional[bytes] = ...) -> None: ...

class AnalysisResults(_message.Message):
    __slots__ = ("version", "idempotency_key", "status", "removed_after", "metrics", "recommendation")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_AFTER_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    RECOMMENDATION_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    status: CycleStatus
    removed_after: float
    metrics: _containers.ScalarMap[str, float]
    recommendation: str
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., status: _Optional[_Union[CycleStatus, str]] = ..., removed_after: _Optional[float] = ..., metrics: _Optional[_Mapping[str, float]] = ..., recommendation: _Optional[str] = ...) -> None: ...

class PruningMasks(_message.Message):
    __slots__ = ("version", "architecture", "keep", "originals")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    ORIGINALS_FIELD_NUMBER: _ClassVar[int]
    version: int
    architecture: PrunedArchitecture
    keep: ArrayReference
    originals: ArrayReference
    def __init__(self, version: _Optional[int] = ..., architecture: _Optional[_Union[PrunedArchitecture, _Mapping]] = ..., keep: _Optional[_Union[ArrayReference, _Mapping]] = ..., originals: _Optional[_Union[ArrayReference, _Mapping]] = ...) -> None: ...

class MaskApplication(_message.Message):
    __slots__ = ("version", "epoch", "masks", "is_on_probation", "reason", "report")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    IS_ON_PROBATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    version: int
    epoch: int
    masks: PruningMasks
    is_on_probation: bool
    reason: str
    report: AnalysisReport
    def __init__(self, version: _Optional[int] = ..., epoch: _Optional[int] = ..., masks: _Optional[_Union[PruningMasks, _Mapping]] = ..., is_on_probation: _Optional[bool] = ..., reason: _Optional[str] = ..., report: _Optional[_Union[AnalysisReport, _Mapping]] = ...) -> None: ...

class CheckpointUpdate(_message.Message):
    __slots__ = ("version", "checkpoint", "application")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    APPLICATION_FIELD_NUMBER: _ClassVar[int]
    version: int
    checkpoint: CheckpointMetadata
    application: MaskApplication
    def __init__(self, version: _Optional[int] = ..., checkpoint: _Optional[_Union[CheckpointMetadata, _Mapping]] = ..., application: _Optional[_Union[MaskApplication, _Mapping]] = ...) -> None: ...

class KernelRequest(_message.Message):
    __slots__ = ("version", "idempotency_key", "blueprint", "shape", "dtype", "device", "slot", "generation", "options", "number", "maker")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    MAKER_FIELD_NUMBER: _ClassVar[int]
    version: int
    idempotency_key: str
    blueprint: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    device: str
    slot: str
    generation: int
    options: str
    number: int
    maker: str
    def __init__(self, version: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., blueprint: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., slot: _Optional[str] = ..., generation: _Optional[int] = ..., options: _Optional[str] = ..., number: _Optional[int] = ..., maker: _Optional[str] = ...) -> None: ...

class KernelCheck(_message.Message):
    __slots__ = ("name", "passed", "value", "limit", "text")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    name: str
    passed: bool
    value: float
    limit: float
    text: str
    def __init__(self, name: _Optional[str] = ..., passed: _Optional[bool] = ..., value: _Optional[float] = ..., limit: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class KernelArtifact(_message.Message):
    __slots__ = ("version", "blueprint", "program", "metrics", "status", "request", "checks")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BLUEPRINT_FIELD_NUMBER: _ClassVar[int]
    PROGRAM_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    version: int
    blueprint: str
    program: ArrayReference
    metrics: _containers.ScalarMap[str, float]
    status: HealthStatus
    request: KernelRequest
    checks: _containers.RepeatedCompositeFieldContainer[KernelCheck]
    def __init__(self, version: _Optional[int] = ..., blueprint: _Optional[str] = ..., program: _Optional[_Union[ArrayReference, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., status: _Optional[_Union[HealthStatus, str]] = ..., request: _Optional[_Union[KernelRequest, _Mapping]] = ..., checks: _Optional[_Iterable[_Union[KernelCheck, _Mapping]]] = ...) -> None: ...

class ConsensusProposal(_message.Message):
    __slots__ = ("version", "round", "plan_digest", "at_step")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PLAN_DIGEST_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    plan_digest: str
    at_step: int
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., plan_digest: _Optional[str] = ..., at_step: _Optional[int] = ...) -> None: ...

class ConsensusVote(_message.Message):
    __slots__ = ("version", "round", "rank", "is_yes", "state_digest", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    IS_YES_FIELD_NUMBER: _ClassVar[int]
    STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    rank: int
    is_yes: bool
    state_digest: str
    reason: str
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., rank: _Optional[int] = ..., is_yes: _Optional[bool] = ..., state_digest: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ConsensusCommit(_message.Message):
    __slots__ = ("version", "round", "is_committed", "at_step", "reason")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    IS_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    AT_STEP_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    version: int
    round: int
    is_committed: bool
    at_step: int
    reason: str
    def __init__(self, version: _Optional[int] = ..., round: _Optional[int] = ..., is_committed: _Optional[bool] = ..., at_step: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class EventEnvelope(_message.Message):
    __slots__ = ("version", "topic", "type", "idempotency_key", "priority", "at_seconds", "lives_seconds", "payload")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    AT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LIVES_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    version: int
    topic: str
    type: str
    idempotency_key: str
    priority: Priority
    at_seconds: float
    lives_seconds: float
    payload: bytes
    def __init__(self, version: _Optional[int] = ..., topic: _Optional[str] = ..., type: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., priority: _Optional[_Union[Priority, str]] = ..., at_seconds: _Optional[float] = ..., lives_seconds: _Optional[float] = ..., payload: _Optional[bytes] = ...) -> None: ...
