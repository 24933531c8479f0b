"""Every error that Esper raises on purpose.

A message says what was found, what was expected, where, and what to do about it.

::

    EsperError
    ├── ConfigError (ValueError)              a setting that cannot be used
    ├── ContractError                         a message that breaks its contract
    │   ├── SignatureError                    its signature does not verify
    │   └── ReplayError                       it was seen before
    ├── StructureError                        what a network is made of
    │   ├── UntraceableError                  the network cannot be exported
    │   ├── UnknownPathError (KeyError)       no module or parameter of that name
    │   └── MaskError (ValueError)            a mask that does not fit the network
    ├── LifecycleError
    │   └── IllegalTransitionError
    ├── AnalysisError
    │   ├── EvidenceError                     nothing was measured, so nothing is decided
    │   └── AnalysisTimeout (TimeoutError)
    ├── SurgeryError                          a cut that cannot be made
    │   └── NotEquivalentError                the cut network is not the masked one
    ├── CheckpointError
    │   ├── CheckpointMissing (FileNotFoundError)
    │   ├── CheckpointCorrupt
    │   └── RollbackExhausted
    ├── BusError
    ├── RankDivergence
    └── RankLost
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OWN_FOLDER = f"{Path(__file__).parent}/"
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")


def users_line(error: BaseException, *, installed: bool = False) -> str:
    """The line of the user's code that an error came from, as "line 3 of net.py"; "" if Esper raised it.

    Args:
        error: what was raised and caught.
        installed: whether code of installed libraries counts too, all but torch, when it is the innermost.
    """
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename, installed=installed):
        return f"line {error.lineno} of {error.filename}"
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(_OWN_FOLDER):
            place = ""  # what the user's code was called by, or what it called: then the fault may be ours
        elif _is_users(file, installed=installed):
            place = f"line {line} of {file}"
    return place


def _is_users(file: str, *, installed: bool) -> bool:
    if "/site-packages/" in file:
        return installed and "/torch/" not in file
    return not file.startswith((_STANDARD_LIBRARY, "<"))


class EsperError(Exception):
    """Root of every error that Esper raises on purpose."""


class ConfigError(EsperError, ValueError):
    """A setting, argument or environment that cannot be used as it is."""


class ContractError(EsperError):
    """A message between parts that breaks its contract."""


class SignatureError(ContractError):
    """A signature that does not verify: altered, or signed by a key that is not ours."""


class ReplayError(ContractError):
    """A message that was accepted before."""


class StructureError(EsperError):
    """Something about the structure of a network."""


class UntraceableError(StructureError):
    """`torch.export` cannot turn the network into a graph."""


class UnknownPathError(StructureError, KeyError):
    """No module, parameter or unit of that name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would print the repr


class MaskError(StructureError, ValueError):
    """A mask that does not fit the network it is meant for."""


class LifecycleError(EsperError):
    """Something about the stages of a seed."""


class IllegalTransitionError(LifecycleError):
    """A stage that cannot follow the present one."""


class AnalysisError(EsperError):
    """An analysis that has no result."""


class EvidenceError(AnalysisError):
    """Evidence that a decision needs was never measured."""


class AnalysisTimeout(AnalysisError, TimeoutError):
    """An analysis that passed its deadline and was stopped."""


class SurgeryError(EsperError):
    """A cut that cannot be made; the network is as it was before."""


class NotEquivalentError(SurgeryError):
    """The cut network does not compute what the masked one computes; the cut was undone."""


class CheckpointError(EsperError):
    """Something about the checkpoint store."""


class CheckpointMissing(CheckpointError, FileNotFoundError):
    """No checkpoint where one is needed."""


class CheckpointCorrupt(CheckpointError):
    """A checkpoint whose bytes are not those that were saved."""


class RollbackExhausted(CheckpointError):
    """No verified checkpoint is left to go back to."""


class BusError(EsperError):
    """Something about the message bus."""


class RankDivergence(EsperError):
    """Ranks that should agree and do not."""


class RankLost(EsperError):
    """A rank that no longer answers the others."""


def kind_named(name: str) -> type[EsperError] | None:
    """The kind of error of that name, such as another process tells it; None if it is none of ours."""
    kind = globals().get(name)
    return kind if isinstance(kind, type) and issubclass(kind, EsperError) else None
