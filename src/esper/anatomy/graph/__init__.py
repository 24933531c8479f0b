"""A network as a graph of operators: tracing it, and what stands in the way of that."""

from esper.anatomy.graph.admission import changed_inputs, check_given, check_made, check_tensors, check_values
from esper.anatomy.graph.alive import Alive
from esper.anatomy.graph.beside import CopiesBeside
from esper.anatomy.graph.bits import sums_of_bits
from esper.anatomy.graph.chosen import chosen_rows, concrete
from esper.anatomy.graph.exporting import exporting
from esper.anatomy.graph.gradient_hooks import held_by_a_hook
from esper.anatomy.graph.lowering import is_in_place, is_view, lowered, operator_name, parts_of
from esper.anatomy.graph.plain_beside import PlainBeside, plain_copies_beside
from esper.anatomy.graph.ranks import (
    group_of,
    is_inside_parallel,
    is_parallel,
    shared_parameters,
    together,
)
from esper.anatomy.graph.recurrence import exported
from esper.anatomy.graph.sharded import gathered, is_sharded
from esper.anatomy.graph.standalone import standalone
from esper.anatomy.graph.substitution import call_with
from esper.anatomy.graph.trace import (
    TRACE_BATCH,
    Axes,
    Loss,
    Traced,
    is_dynamic,
    is_foreign,
    loss_tensors,
    named_tensors,
    open_axes,
    primary_output,
    trace,
    traced_as,
    without_caches,
)
from esper.anatomy.graph.undisturbed import back_in_mode, same_draws, undisturbed
from esper.anatomy.graph.wrappers import (
    bare,
    bare_name,
    check_renewable,
    copied,
    is_compiled,
    programs_made,
    renew,
)

__all__ = [
    "TRACE_BATCH",
    "Alive",
    "Axes",
    "CopiesBeside",
    "Loss",
    "PlainBeside",
    "Traced",
    "back_in_mode",
    "bare",
    "bare_name",
    "call_with",
    "changed_inputs",
    "check_given",
    "check_made",
    "check_renewable",
    "check_tensors",
    "check_values",
    "chosen_rows",
    "concrete",
    "copied",
    "exported",
    "exporting",
    "gathered",
    "group_of",
    "held_by_a_hook",
    "is_compiled",
    "is_dynamic",
    "is_foreign",
    "is_in_place",
    "is_inside_parallel",
    "is_parallel",
    "is_sharded",
    "is_view",
    "loss_tensors",
    "lowered",
    "named_tensors",
    "open_axes",
    "operator_name",
    "parts_of",
    "plain_copies_beside",
    "primary_output",
    "programs_made",
    "renew",
    "same_draws",
    "shared_parameters",
    "standalone",
    "sums_of_bits",
    "together",
    "trace",
    "traced_as",
    "undisturbed",
    "without_caches",
]
