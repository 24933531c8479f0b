"""Every setting with its type, default and meaning, and where its present value comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

_BOUNDS = (("minimum", ">= "), ("exclusiveMinimum", "> "), ("maximum", "<= "), ("exclusiveMaximum", "< "))


@dataclass(frozen=True)
class SettingRow:
    """One setting; `source` is `default` or where it was set."""

    key: str
    type: str
    default: Any
    value: Any
    source: str
    meaning: str


def setting_rows(settings: BaseModel, source: str) -> tuple[SettingRow, ...]:
    """All settings of a configuration; those of a section come before its inner sections.

    Args:
        settings: the whole configuration.
        source: what is said of those that were set: the file they were read from.
    """
    schema = type(settings).model_json_schema()
    return tuple(_walk(schema, schema.get("$defs", {}), "", {}, settings, source))


def _walk(
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
    prefix: str,
    defaults: Mapping[str, Any],
    settings: BaseModel | None,
    source: str,
) -> Iterator[SettingRow]:
    values = defaults if settings is None else settings.model_dump(mode="json")
    entries = schema["properties"].items()
    for name, entry in sorted(entries, key=lambda item: _section(item[1], definitions)[0] is not None):
        default = defaults.get(name, entry.get("default"))
        value = values.get(name, default)
        is_set = settings is not None and name in settings.model_fields_set
        section, optional = _section(entry, definitions)
        if section is None or optional:
            yield SettingRow(
                prefix + name,
                "section or nothing" if section else _type(entry, definitions),
                default,
                "on" if section and value is not None else value,
                source if is_set else "default",
                " ".join(str(entry.get("description", "")).split()),
            )
        if section is not None:
            inner = None if settings is None else getattr(settings, name)
            origin = source if is_set else "default"  # a default may be a section with values of its own
            yield from _walk(section, definitions, f"{prefix}{name}.", default or {}, inner, origin)


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
