"""Names and texts as they may stand in an archive; torch pastes some of them into Python that it runs."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PART = re.compile(r"(?!__)[\w<>+~@#:;,/|= -]+")
"""One part of a dotted name: nothing in it ends the text that it is pasted into."""
_SYMBOL = re.compile(r"(s|u|zf|zuf)[0-9]{1,5}")
MAX_NAME_LENGTH = 1024
_MAX_TEXT_LENGTH = 1 << 16


class NotAdmitted(ValueError):
    """What an archive holds has no place in it; the text is a sentence's end: `it holds ...`."""


def identifier(text: str) -> str:
    """A name that is a Python identifier and no word of the language."""
    if len(text) > MAX_NAME_LENGTH or not _IDENTIFIER.fullmatch(text) or keyword.iskeyword(text):
        raise NotAdmitted(f"the name {shown(text)}, which is no identifier")
    return text


def optional_identifier(text: str) -> str:
    """A name, or nothing."""
    return identifier(text) if text else text


def dotted(text: str) -> str:
    """The name of a parameter, buffer or constant inside its network: `block.0.weight`."""
    if len(text) > MAX_NAME_LENGTH or not all(map(_PART.fullmatch, text.split("."))):
        raise NotAdmitted(f"the name {shown(text)}, which no module gives a tensor")
    return text


def optional_dotted(text: str) -> str:
    """The name of a module; that of the root is empty."""
    return dotted(text) if text else text


def symbol(text: str) -> str:
    """The name of a size that may differ from call to call: `s77`."""
    if not _SYMBOL.fullmatch(text):
        raise NotAdmitted(f"the symbol {shown(text)}; known are names like s0 and u0")
    return text


def plain_text(text: str) -> str:
    """A value that is text: the mode of an operator, the message of an assertion."""
    if len(text) > _MAX_TEXT_LENGTH:
        raise NotAdmitted(f"a text of {len(text)} characters, where {_MAX_TEXT_LENGTH} are enough")
    return text


def shown(text: object) -> str:
    """What was found, for a message: readable, on one line, and never long."""
    written = ascii(text)
    return written if len(written) <= 80 else f"{written[:77]}..."


def one_of(*words: str) -> Callable[[str], str]:
    """The grammar of a text that is one of a few words."""

    def word(text: str) -> str:
        if text not in words:
            raise NotAdmitted(f"{shown(text)} where only {', '.join(words)} are known")
        return text

    return word
