"""What every configuration section is made of: the section class, ranges that settings share, refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from esper.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_MOST_MEANT = 2
"""Of a key that stands in more sections nobody knows which was meant."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share between 0 and 1, never per cent."""

OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
"""A share strictly between 0 and 1."""

Seconds = Annotated[float, Field(gt=0.0)]
"""A duration in seconds, above zero."""

NonNegative = Annotated[float, Field(ge=0.0)]
"""A number, at least zero."""

Count = Annotated[int, Field(ge=0)]
"""A number of things, zero included."""

PositiveCount = Annotated[int, Field(ge=1)]
"""A number of things, at least one."""


class Section(BaseModel):
    """One part's settings: frozen, and an unknown key is an error instead of a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


AnySection = TypeVar("AnySection", bound=Section)


def section_of(
    kind: type[AnySection], given: AnySection | Mapping[str, Any] | None, source: str, keys: str
) -> AnySection:
    """A section as it was given, or made of a mapping; None is the section as it is by default.

    Args:
        kind: the section's class.
        given: it, or its values by key.
        source: what the values were read from.
        keys: a sentence that says where its keys are told.

    Raises:
        ConfigError: a key or value is not known; the message names it.
    """
    if isinstance(given, kind):
        return given
    try:
        return kind.model_validate({} if given is None else given)
    except ValidationError as error:
        raise ConfigError(f"{_refusal(kind, source, error)}. {keys}") from error


def _refusal(kind: type[Section], source: str, error: ValidationError) -> str:
    """What is wrong with the first value that a section cannot take, where it stands, what may be meant."""
    first = error.errors()[0]
    where = "".join(f"{part}: " for part in (source, ".".join(str(part) for part in first["loc"])) if part)
    said = first["msg"].removeprefix("Value error, ").rstrip(".")  # of a check of ours, which is a sentence
    if first["type"] == "extra_forbidden":
        said = "There is no such key" + _meant(kind, first["loc"])
    elif first["type"] in ("less_than", "less_than_equal") and _is_per_cent(first):
        said += f", and is {first['input']}: a share, so {first['input']} % is {first['input'] / 100:g}"
    return f"{where}{said}"


def _meant(kind: type[Section], place: Sequence[str | int]) -> str:
    """What may be meant by the last key of a place: a near one of its section, or its name in another one."""
    section: Any = kind
    for part in place[:-1]:
        section = _section_in(getattr(section, "model_fields", {}).get(part))
    near = get_close_matches(str(place[-1]), list(getattr(section, "model_fields", {})), n=1)
    if near:
        return f"; {near[0]!r} is near"
    same = [path for path in _paths(kind) if path.split(".")[-1] == place[-1]]
    return f"; there is {' and '.join(map(repr, same))}" if 0 < len(same) <= _MOST_MEANT else ""


def _paths(section: Any, above: str = "") -> Iterator[str]:
    """All keys of a section and of the sections in it, with dots."""
    for name, field in section.model_fields.items():
        yield above + name
        below = _section_in(field)
        if below is not None:
            yield from _paths(below, f"{above}{name}.")


def _section_in(field: Any) -> Any:
    """The section that a key holds; it may be left out, and is one of several types then."""
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((one for one in kinds if isinstance(one, type) and issubclass(one, Section)), None)


def _is_per_cent(error: ErrorDetails) -> bool:
    """Whether a number is too large for a share, and would do in per cent."""
    limits = error.get("ctx", {})
    limit, given = limits.get("lt", limits.get("le")), error["input"]
    return limit == 1 and isinstance(given, int | float) and 1 < given <= 100
