"""The proof that two networks compute the same, and the tensors that it compares."""

from esper.anatomy.proof.compare import (
    IN_TRAINING,
    Reference,
    difference,
    largest_difference,
    outputs_differ,
    prove,
    same_outputs,
)
from esper.anatomy.proof.inputs import Inputs
from esper.anatomy.proof.observe import OUTPUTS, Graph, Live, Mode, Observation, deep_copy
from esper.anatomy.proof.pieces import large_in
from esper.anatomy.proof.randomness import RANDOM, why_random
from esper.anatomy.proof.reference import reference
from esper.anatomy.proof.tensors import Undo, kept_indices, live_tensors, resize, select, spread_out
from esper.anatomy.proof.tolerance import FLOAT64_LIMIT, RUNTIME_LIMIT, Equivalence

__all__ = [
    "FLOAT64_LIMIT",
    "IN_TRAINING",
    "OUTPUTS",
    "RANDOM",
    "RUNTIME_LIMIT",
    "Equivalence",
    "Graph",
    "Inputs",
    "Live",
    "Mode",
    "Observation",
    "Reference",
    "Undo",
    "deep_copy",
    "difference",
    "kept_indices",
    "large_in",
    "largest_difference",
    "live_tensors",
    "outputs_differ",
    "prove",
    "reference",
    "resize",
    "same_outputs",
    "select",
    "spread_out",
    "why_random",
]
