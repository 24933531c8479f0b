"""Whose fault an error is: the line of the user's code, or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from esper.errors import users_line
from esper.leyline import encode


def raised_by(act: Callable[[], object]) -> Exception:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - any error will do
        return error
    raise AssertionError("nothing was raised")


def line_with(mark: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    return f"line {1 + next(n for n, line in enumerate(lines) if line.endswith(f'# {mark}'))} of {__file__}"


def test_the_innermost_line_of_the_users_code_is_named() -> None:
    def fails() -> object:
        return os.environ["NO_SUCH_NAME"]  # the key

    assert users_line(raised_by(fails)) == line_with("the key")


def test_what_a_library_raises_is_the_fault_of_the_line_that_called_it() -> None:
    error = raised_by(lambda: torch.zeros(2) @ torch.zeros(3))
    assert users_line(error) == users_line(error, installed=True)
    assert "test_errors.py" in users_line(error)


def test_what_esper_raises_is_not_the_fault_of_its_caller() -> None:
    assert users_line(raised_by(lambda: encode({1: "a number as key"}, object))) == ""


def test_a_file_that_cannot_be_parsed_is_named_itself(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    error = raised_by(lambda: compile("x = 1\ndef f(:\n", bad, "exec"))
    assert users_line(error) == f"line 2 of {bad}"
