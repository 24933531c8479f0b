"""The networks in a run directory: loaded, drawn, examined and exported, without the code that made them."""

from esper.runs.network.around_seeds import former_name, seed_paths
from esper.runs.network.case import ANATOMY_FILE, analyst_of, case_of, criterion_of, data_of
from esper.runs.network.examine import LOW_FRACTION, Examination, examine
from esper.runs.network.files import (
    FORM_FILE,
    FORMLESS,
    GROWN,
    ONNX_FILE,
    PROGRAM_FILE,
    VERSION,
    WEIGHTS_FILE,
    NetworkFiles,
    form_from,
    state_of,
)
from esper.runs.network.layers import layers_of
from esper.runs.network.loading import is_finished, load
from esper.runs.network.onnx import require_onnx
from esper.runs.network.request import OfflinePruning
from esper.runs.network.state import read_state, state_files
from esper.runs.network.unit_fates import Fate
from esper.runs.network.unit_map import CellState, LayerCells, UnitMap, UnitMaps

__all__ = [
    "ANATOMY_FILE",
    "FORMLESS",
    "FORM_FILE",
    "GROWN",
    "LOW_FRACTION",
    "ONNX_FILE",
    "PROGRAM_FILE",
    "VERSION",
    "WEIGHTS_FILE",
    "CellState",
    "Examination",
    "Fate",
    "LayerCells",
    "NetworkFiles",
    "OfflinePruning",
    "UnitMap",
    "UnitMaps",
    "analyst_of",
    "case_of",
    "criterion_of",
    "data_of",
    "examine",
    "form_from",
    "former_name",
    "is_finished",
    "layers_of",
    "load",
    "read_state",
    "require_onnx",
    "seed_paths",
    "state_files",
    "state_of",
]
