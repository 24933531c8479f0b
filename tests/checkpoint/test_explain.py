"""A failed system call in words."""

from __future__ import annotations

import errno

import pytest

from esper.checkpoint.explain import explain


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "ermission"),
        (errno.EIO, "failing"),
    ],
)
def test_a_paragraph_says_what_where_and_what_to_do(number: int, advice: str) -> None:
    text = explain("Step 3 was not saved in runs/a", OSError(number, "strange", "runs/a/file"))
    assert text.startswith("Step 3 was not saved in runs/a: ")
    assert advice in text
    assert "(at runs/a/file)" in text
    assert "everything committed before is intact" in text
    assert text.endswith(f"[{errno.errorcode[number]}]")


def test_notes_say_what_is_left() -> None:
    error = OSError("odd")
    error.add_note("A directory is left.")
    text = explain("It failed", error)
    assert text.startswith("It failed: odd. The disk")
    assert text.endswith("check it. A directory is left. [no number]")
