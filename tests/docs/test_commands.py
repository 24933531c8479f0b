"""Every `esper ...` in a document is a command with these options, and docs/cli.md names all there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup, TyperOption

from esper.cli.main import app
from tests.docs.pages import DOCUMENTS, ROOT, named

SHOWN = re.compile(r"^(?: {4}|\$ )?(esper [a-z-].*)$|`(esper [a-z-][^`]*)`", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z-]*")
EVERYWHERE = {"--help", "--json", "--debug", "--version", "--install-completion", "--show-completion"}
ROOT_COMMAND = typer.main.get_command(app)


def shown(path: Path) -> list[str]:
    """Command lines of a document without what a comment says; headers of sealed files are none."""
    lines = (block or span for block, span in SHOWN.findall(path.read_text()))
    return [line.split("  ")[0].split(" #")[0] for line in lines if not line.startswith(SEALED)]


SEALED = (
    "esper manifest",
    "esper run",
    "esper audit entry",
    "esper audit head",
    "esper boot",
    "esper file key",
)


def command_of(line: str) -> tuple[Any, str]:
    """The command that a line calls, and what follows it."""
    command: Any = ROOT_COMMAND
    words = line.split()[1:]
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        word = words.pop(0)
        assert word in command.commands, f"{line}: there is no {word!r} among {sorted(command.commands)}"
        command = command.commands[word]
    return command, " ".join(words)


def options_of(command: Any) -> set[str]:
    return {name for option in command.params for name in option.opts if name.startswith("-")}


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if shown(path)], ids=named)
def test_commands_and_options_of_a_document_exist(path: Path) -> None:
    for line in shown(path):
        command, rest = command_of(line)
        unknown = set(OPTION.findall(rest)) - options_of(command) - EVERYWHERE
        assert not unknown, f"{line}: {command.name} has no {sorted(unknown)}"


def commands(group: Any, words: str = "esper") -> Iterator[tuple[str, Any]]:
    """All that can be called, with the words that call it."""
    for name, command in group.commands.items() if isinstance(group, TyperGroup) else ():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{words} {name}")
        else:
            yield f"{words} {name}", command


@pytest.mark.parametrize(("words", "command"), list(commands(ROOT_COMMAND)))
def test_the_page_of_commands_names_every_command_and_option(words: str, command: Any) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert words in text or words.removeprefix("esper keys ") in text
    missing = {
        "/".join(option.opts)
        for option in command.params
        if isinstance(option, TyperOption)
        and not set(option.opts) & EVERYWHERE
        and not any(re.search(rf"(?<![\w-]){name}(?![\w-])", text) for name in option.opts)
    }
    assert not missing, f"docs/cli.md says nothing of {sorted(missing)} of {words}"
