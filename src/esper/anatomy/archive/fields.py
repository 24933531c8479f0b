"""The fields of a stored program: what may stand in each, by torch's own description of the format.

The description gives names and types. What it calls a text is much more to torch: names that it writes into
Python, expressions that it evaluates, classes that it imports. So every text has its own grammar here, a text
without one is refused, and so is every kind of value that is in none of the tables.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

from torch._export.serde import schema

from esper.anatomy.archive.expressions import expression
from esper.anatomy.archive.names import (
    NotAdmitted,
    dotted,
    identifier,
    one_of,
    optional_dotted,
    optional_identifier,
    plain_text,
    shown,
    symbol,
)
from esper.anatomy.archive.operators import operator
from esper.anatomy.archive.trees import call_tree, tree

T = TypeVar("T")
Grammar = Callable[[str], str]
MAJOR_VERSION = schema.SCHEMA_VERSION[0]
_MAX_DEPTH = 64
_LARGEST = 1 << 63
_WORDS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}

_DEVICE = one_of("cpu", "cuda", "mps", "xpu", "meta")
_VERIFIER = one_of("ATEN", "TRAINING")

_TEXTS: Mapping[tuple[type, str], Grammar] = {
    (schema.Device, "type"): _DEVICE,
    (schema.SymExpr, "expr_str"): expression,
    (schema.SymIntArgument, "as_name"): identifier,
    (schema.SymFloatArgument, "as_name"): identifier,
    (schema.SymBoolArgument, "as_name"): identifier,
    (schema.TensorArgument, "name"): identifier,
    (schema.GraphArgument, "name"): identifier,
    (schema.NamedArgument, "name"): optional_identifier,
    (schema.Argument, "as_string"): plain_text,
    (schema.Argument, "as_strings"): plain_text,
    (schema.Node, "target"): operator,
    (schema.Node, "name"): identifier,
    (schema.Graph, "tensor_values"): identifier,
    (schema.Graph, "sym_int_values"): identifier,
    (schema.Graph, "sym_bool_values"): identifier,
    (schema.Graph, "sym_float_values"): identifier,
    (schema.ConstantValue, "as_string"): plain_text,
    (schema.InputToConstantInputSpec, "name"): identifier,
    (schema.InputToParameterSpec, "parameter_name"): dotted,
    (schema.InputToBufferSpec, "buffer_name"): dotted,
    (schema.InputToTensorConstantSpec, "tensor_constant_name"): dotted,
    (schema.BufferMutationSpec, "buffer_name"): dotted,
    (schema.ParameterMutationSpec, "parameter_name"): dotted,
    (schema.UserInputMutationSpec, "user_input_name"): identifier,
    (schema.ModuleCallSignature, "in_spec"): call_tree,
    (schema.ModuleCallSignature, "out_spec"): tree,
    (schema.ModuleCallSignature, "forward_arg_names"): identifier,
    (schema.ModuleCallEntry, "fqn"): optional_dotted,
    (schema.ExportedProgram, "range_constraints"): symbol,
    (schema.ExportedProgram, "verifiers"): _VERIFIER,
    (schema.PayloadConfig, "config"): dotted,
    (schema.PayloadMeta, "path_name"): identifier,
}
"""The grammar of every text; of a mapping it is that of the keys."""

_ALTERNATIVES: Mapping[type, frozenset[str]] = {
    schema.Argument: frozenset(
        {
            *(
                "as_none",
                "as_tensor",
                "as_tensors",
                "as_optional_tensor",
                "as_optional_tensors",
                "as_nested_tensors",
            ),
            *("as_int", "as_ints", "as_int_lists", "as_float", "as_floats", "as_float_lists", "as_complex"),
            *("as_bool", "as_bools", "as_string", "as_strings", "as_sym_int", "as_sym_ints", "as_sym_float"),
            *(
                "as_sym_floats",
                "as_sym_bool",
                "as_sym_bools",
                "as_scalar_type",
                "as_memory_format",
                "as_layout",
            ),
            *("as_device", "as_graph"),
        }
    ),
    schema.InputSpec: frozenset({"user_input", "parameter", "buffer", "tensor_constant", "constant_input"}),
    schema.OutputSpec: frozenset(
        {"user_output", "loss_output", "buffer_mutation", "parameter_mutation", "user_input_mutation"}
    ),
    schema.OptionalTensorArgument: frozenset({"as_tensor", "as_none"}),
    schema.ConstantValue: frozenset({"as_none", "as_int", "as_float", "as_string", "as_bool"}),
    schema.SymExprHint: frozenset({"as_int", "as_bool", "as_float"}),
    schema.SymInt: frozenset({"as_expr", "as_int"}),
    schema.SymFloat: frozenset({"as_expr", "as_float"}),
    schema.SymBool: frozenset({"as_expr", "as_bool"}),
    schema.SymIntArgument: frozenset({"as_name", "as_int"}),
    schema.SymFloatArgument: frozenset({"as_name", "as_float"}),
    schema.SymBoolArgument: frozenset({"as_name", "as_bool"}),
}
"""Which alternatives of a choice are admitted: no objects of classes, no operators as values, no tokens."""

_UNREAD: Mapping[tuple[type, str], Any] = {
    (schema.Graph, "custom_obj_values"): dict,
    (schema.GraphModule, "metadata"): dict,
    (schema.GraphModule, "treespec_namedtuple_fields"): dict,
    (schema.ExportedProgram, "opset_version"): dict,
    (schema.ExportedProgram, "torch_version"): str,
    (schema.ExportedProgram, "guards_code"): list,
}
"""What is never looked at: notes on the whole program, and Python that checks sample inputs."""
_NOTES, _MODULES = (schema.Node, "metadata"), "nn_module_stack"
"""The one note on a node that is kept: in which modules' calls it was recorded, by which blocks are named."""


def read(kind: type[T], value: Any) -> T:
    """A value of the stored form as torch's own object, if all of it is admitted.

    Raises:
        NotAdmitted: something in it is not; it is named.
    """
    admitted: T = _read(kind, value, None, 0)
    return admitted


@dataclass(frozen=True)
class _Shape:
    """How values of one type are read."""

    kind: Any
    items: tuple[Any, ...]
    is_optional: bool


@cache
def _shape(hint: Any) -> _Shape:
    """The type of a field: its origin, the types inside, and whether None will do."""
    if typing.get_origin(hint) is Annotated:
        return _shape(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in typing.get_args(hint) if argument is not type(None))
        return _Shape(_shape(inner).kind, _shape(inner).items, True)
    return _Shape(typing.get_origin(hint) or hint, typing.get_args(hint), False)


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return typing.get_type_hints(kind, globalns=vars(schema))


def _read(hint: Any, value: Any, grammar: Grammar | None, depth: int) -> Any:
    """A value of a type; `grammar` is that of the texts in it."""
    shape = _shape(hint)
    if depth > _MAX_DEPTH:
        raise NotAdmitted(f"values nested more than {_MAX_DEPTH} deep")
    if value is None and shape.is_optional:
        return None
    if shape.kind is list:
        return [_read(shape.items[0], item, grammar, depth + 1) for item in _checked(list, value)]
    if shape.kind is dict:
        entries = _checked(dict, value).items()
        return {_text(key, grammar): _read(shape.items[1], item, None, depth + 1) for key, item in entries}
    if is_dataclass(shape.kind):
        read = _alternative if shape.kind in _ALTERNATIVES else _object
        return read(shape.kind, _checked(dict, value), depth + 1)
    return _text(value, grammar) if shape.kind is str else _scalar(shape.kind, value)


def _checked(kind: type[T], value: Any) -> T:
    if type(value) is not kind:
        raise NotAdmitted(f"{shown(value)} where a {kind.__name__} should be")
    return value


def _text(value: Any, grammar: Grammar | None) -> str:
    if grammar is None:
        raise NotAdmitted(f"the text {shown(value)} where none is known")
    return grammar(_checked(str, value))


def _object(kind: Any, value: dict[str, Any], depth: int) -> Any:
    """An object with named fields, each of which must be known, and there unless it has a default."""
    surplus = value.keys() - {field.name for field in fields(kind)}
    if surplus:
        raise NotAdmitted(f"a field {shown(min(surplus))} in a {kind.__name__}, which has none of that name")
    given = {}
    for field in fields(kind):
        if (kind, field.name) in _UNREAD:
            given[field.name] = _UNREAD[kind, field.name]()
        elif (kind, field.name) == _NOTES:
            given[field.name] = _notes(value.get(field.name, {}))
        elif field.name in value:
            grammar = _TEXTS.get((kind, field.name))
            given[field.name] = _read(_hints(kind)[field.name], value[field.name], grammar, depth)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise NotAdmitted(f"a {kind.__name__} without its {field.name}")
    return kind(**given)


def _notes(metadata: Any) -> dict[str, str]:
    """Torch imports what other notes name; this one it only splits into texts."""
    found = _checked(dict, metadata).get(_MODULES)
    return {} if found is None else {_MODULES: plain_text(_checked(str, found))}


def _alternative(kind: Any, value: dict[str, Any], depth: int) -> Any:
    """One of several alternatives, named by the only key."""
    name = next(iter(value), "")
    if len(value) != 1 or name not in _ALTERNATIVES[kind]:
        raise NotAdmitted(f"{shown(name)} as a {kind.__name__}, of which only plain values are read")
    content = _read(_hints(kind)[name], value[name], _TEXTS.get((kind, name)), depth)
    return kind.create(**{name: content})


def _scalar(kind: type, value: Any) -> Any:
    if kind is float:
        number = _WORDS.get(value, value) if isinstance(value, str) else value
        return number if type(number) is float else float(_whole(number))
    if kind is int:
        return _whole(value)
    if issubclass(kind, enum.IntEnum):
        return _member(kind, _whole(value))
    if kind is not bool:
        raise NotAdmitted(f"a value of the type {kind.__name__}")
    return _checked(bool, value)


def _whole(value: Any) -> int:
    number = _checked(int, value)
    if not -_LARGEST <= number < _LARGEST:
        raise NotAdmitted("a number that does not fit into 64 bits")
    return number


def _member(kind: Any, value: int) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise NotAdmitted(f"{value} as a {kind.__name__}, which does not exist") from error
