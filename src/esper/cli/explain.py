"""Every setting with its type, default and meaning, and where its present value comes from."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from esper.errors import ConfigError

_BOUNDS = (("minimum", ">= "), ("exclusiveMinimum", "> "), ("maximum", "<= "), ("exclusiveMaximum", "< "))


@dataclass(frozen=True)
class SettingRow:
    """One setting; `source` is `default` or the file that sets it."""

    key: str
    type: str
    default: Any
    value: Any
    source: str
    meaning: str


def setting_rows(model: type[BaseModel], file: Path | None = None) -> tuple[SettingRow, ...]:
    """All settings of a configuration class, in order.

    Args:
        model: the class of the whole configuration.
        file: a TOML file that sets some of them.

    Raises:
        ConfigError: the file cannot be parsed, or sets something that does not exist or does not fit.
    """
    chosen = {} if file is None else _read(file, model)
    schema = model.model_json_schema()
    return tuple(_walk(schema, schema.get("$defs", {}), "", schema.get("default", {}), chosen, str(file)))


def _walk(
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
    prefix: str,
    defaults: Mapping[str, Any],
    chosen: Mapping[str, Any],
    file: str,
) -> Iterator[SettingRow]:
    for name, entry in schema.get("properties", {}).items():
        default = defaults.get(name, entry.get("default"))
        section, optional = _section(entry, definitions)
        value = chosen.get(name, default)
        source = file if name in chosen else "default"
        meaning = " ".join(str(entry.get("description", "")).split())
        if section is None:
            yield SettingRow(prefix + name, _type(entry, definitions), default, value, source, meaning)
            continue
        if optional:
            state = "set" if value is not None else None
            yield SettingRow(prefix + name, "section or nothing", default, state, source, meaning)
        inner = chosen[name] if isinstance(chosen.get(name), Mapping) else {}
        yield from _walk(section, definitions, f"{prefix}{name}.", default or {}, inner, file)


def _section(
    entry: Mapping[str, Any], definitions: Mapping[str, Any]
) -> tuple[Mapping[str, Any] | None, bool]:
    """The nested section that a setting is, if it is one, and whether it may be left out."""
    choices = entry.get("anyOf", [entry])
    found = [_resolved(choice, definitions) for choice in choices]
    sections = [choice for choice in found if "properties" in choice]
    return (sections[0], len(choices) > 1) if len(sections) == 1 else (None, False)


def _type(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "anyOf" in entry:
        return " or ".join(_type(choice, definitions) for choice in entry["anyOf"])
    entry = _resolved(entry, definitions)
    if "enum" in entry or "const" in entry:
        return " | ".join(str(value) for value in entry.get("enum", [entry.get("const")]))
    name = {"null": "nothing", "number": "float", "integer": "int", "string": "text"}.get(
        entry.get("type", "")
    )
    bounds = ", ".join(f"{sign}{entry[key]:g}" for key, sign in _BOUNDS if key in entry)
    return f"{name or entry.get('type', 'any')}{' ' if bounds else ''}{bounds}"


def _resolved(entry: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = entry.get("$ref")
    resolved: Mapping[str, Any] = definitions[reference.rpartition("/")[2]] if reference else entry
    return resolved


def _read(file: Path, model: type[BaseModel]) -> dict[str, Any]:
    try:
        chosen = tomllib.loads(file.read_text(encoding="utf-8"))
        model.model_validate(chosen)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}.") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"{file} cannot be used: {faults}. `esper config --explain` lists every key with its range."
        ) from error
    return chosen
