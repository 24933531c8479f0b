"""Ways of breaking Esper: few cases of each run with the tests, many by `make soak`."""

from tests.faults.regimes.corruption import CORRUPTION
from tests.faults.regimes.crashes import CRASHES
from tests.faults.regimes.cuts import CUTS
from tests.faults.regimes.disks import CALLS, FULL
from tests.faults.regimes.injected_calls import INJECTED
from tests.faults.regimes.kills import KILLS, POINTS
from tests.faults.regimes.regime import Regime
from tests.faults.regimes.walks import WALKS

REGIMES: tuple[Regime, ...] = (CALLS, INJECTED, FULL, CRASHES, WALKS, *CUTS, POINTS, KILLS, CORRUPTION)
"""Short ones first."""

__all__ = [
    "CALLS",
    "CORRUPTION",
    "CRASHES",
    "CUTS",
    "FULL",
    "INJECTED",
    "KILLS",
    "POINTS",
    "REGIMES",
    "WALKS",
    "Regime",
]
