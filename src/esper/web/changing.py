"""Going back to a checkpoint from a page: who may, what would be lost, and what was done."""

from __future__ import annotations

import hmac
import shlex
import threading
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from esper.errors import CheckpointError
from esper.report import figures
from esper.runs import Later, RunState, behind, go_back, while_it_trains
from esper.web.html import command, digest, link

READS_ONLY = (
    "This server only reads. Type the command that the page shows, or start the server by "
    "`esper serve RUNS --allow-rollback`, which prints a token for that."
)
_CLOSE = '<p class="tools"><button type="button" data-close>Close</button></p>'


def is_ours(headers: Mapping[str, str]) -> bool:
    """Whether a page of this server asks: browsers say so of every POST, and let no page say it for another.

    Args:
        headers: of the request, by names in small letters.
    """
    host = headers.get("host", "")
    is_same = headers.get("sec-fetch-site", "same-origin") == "same-origin"
    return is_same and headers.get("origin") in (f"http://{host}", f"https://{host}")


def why_not(headers: Mapping[str, str], token: str) -> str:
    """Why who asks may not change a run; '' if they may.

    Args:
        headers: of the request, by names in small letters.
        token: that the server printed; '' if it only reads.
    """
    if not token:
        return READS_ONLY
    if not is_ours(headers):
        return "Only a page of this server may ask for that. Nothing was changed."
    kind, _, shown = headers.get("authorization", "").partition(" ")
    if kind != "Bearer" or not hmac.compare_digest(shown.encode(), token.encode()):
        return "That is not the token that `esper serve` printed when it started. Nothing was changed."
    return ""


def question(run: Path, name: str, to: int) -> str:
    """What would be lost, and the button that does it; nothing to press where the run is being trained.

    Args:
        run: the run directory.
        name: of the run on the pages.
        to: the step to go back to.

    Raises:
        EsperError: there is no such checkpoint.
    """
    later = behind(run, to)
    title = f'<h2 id="asks">Go back to step {to}, epoch {later.epoch}, of {escape(name)}?</h2>'
    if later.state is RunState.RUNNING:
        words = "This run is being trained, and whoever trains it holds its directory. Nothing was changed."
        return f'{title}<p class="problem">{words}</p><p>{escape(while_it_trains(run, to))}</p>{_CLOSE}'
    if not later.names:
        return f"{title}<p>It is the newest checkpoint: there is nothing to go back over.</p>{_CLOSE}"
    action = link("rollback", run=name, to=to, seen=_digest(later.names))
    typed = command(f"esper rollback {shlex.quote(str(run))} --to {to}")
    do = f"Delete {figures.things(len(later.names), 'checkpoint')} and go back to step {to}"
    return (
        f"{title}<p>{escape(_lost(later))}</p>"
        f'<p class="name">{escape(", ".join(later.names))}</p>'
        "<p>The checkpoint that training then resumes from is read in full before anything is deleted. "
        f"The audit tells of it. The same by hand: {typed}</p>"
        f'<form data-do="{action}"><p class="tools"><label>Token, as printed by <code>esper serve</code> '
        '<input type="password" name="token" autocomplete="off" required></label></p>'
        f'<p class="tools"><button type="button" data-close>Keep everything</button> '
        f'<button class="bad">{do}</button></p></form><div class="told" role="alert"></div>'
    )


def _lost(later: Later) -> str:
    """What goes, in words."""
    number, first, last = len(later.names), later.epoch + 1, later.last_epoch
    them = "is" if number == 1 else "are"
    parts = [f"{figures.things(number, 'checkpoint')} after it {them} deleted, and cannot be brought back."]
    if later.last_step > later.step:
        epochs = f"epoch {last}" if last <= first else f"epochs {first} to {last}"
        parts.append(
            f"What was trained from step {later.step} to {later.last_step} ({epochs}) is lost, with every "
            "mask, cut and seed since."
        )
    if later.is_reported:
        parts.append("The run is not finished any more then; its report is set aside under another name.")
    if later.state is RunState.UNKNOWN:
        parts.append("Nobody here can tell whether another machine trains this run: be sure that none does.")
    return " ".join(parts)


class Changing:
    """Goes back in runs, one at a time. Any thread may ask."""

    def __init__(self) -> None:
        self._alone = threading.Lock()

    def go_back(self, run: Path, to: int, seen: str) -> str:
        """What was done, as HTML.

        Args:
            run: the run directory.
            to: the step to go back to.
            seen: digest of the later checkpoints that whoever asks was told of.

        Raises:
            EsperError: nothing was changed.
        """

        def agree(names: Sequence[str]) -> None:
            if _digest(names) != seen:
                raise CheckpointError(
                    f"The checkpoints after step {to} are not those that you were asked about any more: "
                    f"{', '.join(names) or 'there is none'}. Nothing was changed. Look again, and ask again."
                )

        if not self._alone.acquire(blocking=False):
            raise CheckpointError("This server is going back in a run already. Ask again when it is done.")
        try:
            done = go_back(run, to, agree)
        finally:
            self._alone.release()
        return f"<h2>Done</h2><p>{escape(done.said(run))} Resume the run to train on.</p>{_CLOSE}"


def _digest(names: Sequence[str]) -> str:
    return digest(",".join(names))
