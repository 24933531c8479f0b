"""Every text in torch's description of the format has a grammar of ours, or is never reached."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
from torch._export.serde import schema

from esper.anatomy.archive.fields import _ALTERNATIVES, _NOTES, _TEXTS, _UNREAD, _hints, _notes
from esper.anatomy.archive.names import NotAdmitted


def texts_below(kind: Any, seen: set[Any]) -> Iterator[tuple[type, str]]:
    """The fields with texts that reading an object of this kind can come to."""
    if kind in seen:
        return
    seen.add(kind)
    for field in fields(kind):
        if (kind, field.name) in _UNREAD or (kind in _ALTERNATIVES and field.name not in _ALTERNATIVES[kind]):
            continue
        parts = list(parts_of(_hints(kind)[field.name]))
        if str in parts:
            yield kind, field.name
        for part in parts:
            if is_dataclass(part):
                yield from texts_below(part, seen)


def parts_of(hint: Any) -> Iterator[Any]:
    yield hint
    for inner in typing.get_args(hint):
        yield from parts_of(inner)


def test_the_texts_that_are_reached_are_those_that_have_a_grammar() -> None:
    seen: set[Any] = set()
    reached = {*texts_below(schema.ExportedProgram, seen), *texts_below(schema.PayloadConfig, seen)}
    assert reached == {*_TEXTS, _NOTES}


def test_only_what_torch_describes_is_in_the_tables() -> None:
    for kind, name in (*_TEXTS, *_UNREAD, _NOTES):
        assert name in {field.name for field in fields(kind)}
    for kind, names in _ALTERNATIVES.items():
        assert names <= {field.name for field in fields(kind)}


def test_of_the_notes_on_a_node_only_the_modules_around_it_are_kept_as_text() -> None:
    notes = {"nn_module_stack": "a,layer,torch.nn.Linear", "source_fn_stack": "f,os.system", "custom": "{}"}
    assert _notes(notes) == {"nn_module_stack": "a,layer,torch.nn.Linear"}
    assert _notes({}) == {}
    bad: object
    for bad in ([], {"nn_module_stack": 3}, {"nn_module_stack": "x" * (1 << 17)}):
        with pytest.raises(NotAdmitted):
            _notes(bad)
