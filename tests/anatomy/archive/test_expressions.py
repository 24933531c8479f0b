"""Expressions over sizes are arithmetic, small, and nothing else."""

from __future__ import annotations

import pytest

from esper.anatomy.archive.expressions import expression
from esper.anatomy.archive.names import NotAdmitted

S = "Symbol('s0', positive=True, integer=True)"


@pytest.mark.parametrize(
    "text",
    [
        S,
        f"Add(Mul(Integer(4), {S}), Integer(-1))",
        f"FloorDiv(Add({S}, Integer(1)), Integer(2))",
        f"Pow({S}, Integer(2))",
        f"Equality(Mod({S}, Integer(8)), Integer(0))",
        f"Mul(Rational(1, 2), ToFloat({S}))",
        f"Mul(Float('0.5', precision=53), {S})",
        "true",
    ],
)
def test_arithmetic_is_admitted(text: str) -> None:
    assert expression(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "Symbol('s0').func",
        "Symbol('__import__')",
        "Symbol(Integer(1))",
        "Symbol('s0', cls=Add)",
        "Integer('1')",
        "Integer(__import__('os'))",
        "Integer(1 << 62)",
        "Add(*[Integer(1)])",
        "Add(**{})",
        "Add()",
        "lambda: Integer(1)",
        "[Integer(1) for x in y]",
        "Integer(1) + Integer(2)",
        "Pow(Integer(10), Integer(1000000))",
        f"Pow(Pow({S}, Integer(4)), Integer(4))",
        f"Pow({S}, {S})",
        f"Pow({S})",
        "LShift(Integer(1), Integer(62))",
        "Function('x')(Integer(1))",
        "Float('nan', precision=53)",
        "Float('1', precision=100000)",
        "Integer(1); Integer(2)",
        "(" * 100_000,
        "Add(" * 40 + "Integer(1)" + ")" * 40,
        "Add(Integer(1), " * 500,
        "Integer(1" + "0" * 30 + ")",
        "",
        "\0",
    ],
)
def test_everything_else_is_refused_before_it_is_evaluated(text: str) -> None:
    with pytest.raises(NotAdmitted, match="the expression"):
        expression(text)
