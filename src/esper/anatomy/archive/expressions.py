"""Expressions over sizes, `Mul(Integer(4), Symbol('s0'))`: a small language, as torch runs them as Python.

The parser of the language proper sees the text first and only to take it apart; what is not in the tables
below, or could grow beyond measure while it is simplified, never gets to be evaluated.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping

from esper.anatomy.archive.names import NotAdmitted, shown, symbol

_MAX_LENGTH = 4096
_MAX_DEPTH = 32
_MAX_CALLS = 128
_MAX_POWER = 4
_LARGEST = 1 << 63

_ARITHMETIC = {
    *("Add", "Mul", "Max", "Min", "Abs", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv"),
    *("ModularIndexing", "Where", "Identity", "ToFloat", "IntTrueDiv", "FloatTrueDiv"),
    *("CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt", "TruncToFloat", "floor", "ceiling"),
    *("IsNonOverlappingAndDenseIndicator",),
}
_LOGIC = {
    *("And", "Or", "Not", "Equality", "Unequality", "Eq", "Ne"),
    *("GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan", "Ge", "Le", "Gt", "Lt"),
}
_POWERS = {"Pow", "PowByNatural"}
_CONSTANTS = {"true", "false"}
_ASSUMPTIONS = {"integer", "positive", "nonnegative", "nonzero", "negative", "real", "finite"}
_FLOAT = re.compile(r"-?[0-9.]{1,40}(e[+-]?[0-9]{1,3})?")


def expression(text: str) -> str:
    """The text, if it is an expression of this language.

    Raises:
        NotAdmitted: it is not, or it is larger than any size in a real network.
    """
    if len(text) > _MAX_LENGTH or text.count("(") > _MAX_CALLS or _depth(text) > _MAX_DEPTH:
        raise NotAdmitted(f"the expression {shown(text)}, which is larger than any that is written")
    try:
        _check(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError) as error:
        raise NotAdmitted(f"the expression {shown(text)}, which is more than arithmetic") from error
    return text


def _depth(text: str) -> int:
    """How deep parentheses are nested: counted before any parser has to follow them."""
    deepest = depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def _check(node: ast.expr) -> None:
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(ast.dump(node)[:80])
    name = node.func.id
    if name in _ATOMS:
        _ATOMS[name](node)
    elif name in _POWERS:
        _power(node)
    elif name in _ARITHMETIC | _LOGIC and node.args and not node.keywords:
        for argument in node.args:
            _check(argument)
    else:
        raise ValueError(name)


def _power(node: ast.Call) -> None:
    """A small whole power of what holds no other power: squares of squares explode when they are expanded."""
    base, exponent = node.args
    _check(base)
    holds_power = any(isinstance(part, ast.Name) and part.id in _POWERS for part in ast.walk(base))
    if node.keywords or holds_power or not -1 <= _whole(exponent) <= _MAX_POWER:
        raise ValueError("power")


def _whole(node: ast.expr) -> int:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "Integer":
        raise ValueError("not Integer(...)")
    _integer(node)
    value: int = ast.literal_eval(node.args[0])
    return value


def _integer(node: ast.Call) -> None:
    """`Integer(4)`, `Rational(1, 2)`."""
    for argument in node.args:
        value = ast.literal_eval(argument)
        if type(value) is not int or abs(value) >= _LARGEST:
            raise ValueError("no 64-bit integer")
    if node.keywords or not 1 <= len(node.args) <= 2:
        raise ValueError("arguments")


def _float(node: ast.Call) -> None:
    """`Float('0.5', precision=53)`."""
    (value,) = (ast.literal_eval(argument) for argument in node.args)
    options = {option.arg: ast.literal_eval(option.value) for option in node.keywords}
    if not _FLOAT.fullmatch(value) or options not in ({}, {"precision": 53}):
        raise ValueError("no float")


def _symbol(node: ast.Call) -> None:
    """`Symbol('s0', positive=True, integer=True)`."""
    (name,) = (ast.literal_eval(argument) for argument in node.args)
    options = {option.arg: ast.literal_eval(option.value) for option in node.keywords}
    if not options.keys() <= _ASSUMPTIONS or not all(type(value) is bool for value in options.values()):
        raise ValueError("assumptions")
    symbol(name)


_ATOMS: Mapping[str, Callable[[ast.Call], None]] = {
    "Integer": _integer,
    "Rational": _integer,
    "Float": _float,
    "Symbol": _symbol,
}
