"""The server: pages, their changes as server-sent events, and what changes a run for who has the token."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from esper.errors import ConfigError, EsperError
from esper.report import style
from esper.web import details, health
from esper.web.changing import Changing, is_ours, question, why_not
from esper.web.folder import Folder
from esper.web.html import digest, link, scrolled
from esper.web.metrics import CONTENT_TYPE, exposition
from esper.web.pages import READING_SECONDS, Page, comparison, overview, run_page
from esper.web.units import Units

LOOK_SECONDS = 0.2
"""How often a page that somebody watches is held against the files."""
_BEATS = 75
"""Looks without a change after which a sign of life is sent, so that a dead connection is noticed."""
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'none'"
)
_STEP = "Name the step of a checkpoint by its number."
_KINDS = {
    "serve.js": "text/javascript",
    "units.js": "text/javascript",
    "changing.js": "text/javascript",
    "serve.css": "text/css",
    "page.css": "text/css",
}


@dataclass(frozen=True)
class Address:
    """Where pages are served; port 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8265

    def bind(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            ConfigError: the port is in use, or the address is none of this machine.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            return socket.create_server((self.host, self.port), family=family, backlog=64)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            is_host = (
                isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL
            )
            todo = (
                "Name another --host: an address of this machine, or 0.0.0.0 for all of them"
                if is_host
                else "Name another port, --port 8266, or --port 0 for any that is free"
            )
            raise ConfigError(f"Nothing can be served at {self.host}:{self.port}: {why}. {todo}.") from error


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host in ("127.0.0.1", "::1")


def serve(folder: Path, listening: socket.socket, token: str = "") -> None:
    """Serves the runs of a folder until it is interrupted.

    Args:
        folder: of runs.
        listening: a socket that listens.
        token: what whoever goes back to a checkpoint must show; '' and nobody may.
    """
    host = listening.getsockname()[0]
    runs = Folder(folder)
    threading.Thread(target=runs.read_ahead, name="esper-read-ahead", daemon=True).start()
    app = application(runs, anywhere=not is_local(host), token=token, is_leaving=lambda: server.should_exit)
    settings = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=1, lifespan="off", server_header=False
    )
    server = uvicorn.Server(settings)
    server.run(sockets=[listening])


def application(
    folder: Folder,
    *,
    anywhere: bool = False,
    token: str = "",
    is_leaving: Callable[[], bool] = lambda: False,
) -> Starlette:
    """The pages of a folder as an ASGI application.

    Args:
        folder: of runs.
        anywhere: whether other names than those of this machine's loopback may ask for them.
        token: what whoever goes back to a checkpoint must show; '' and nobody may.
        is_leaving: whether the server is about to end; streams to pages that are open end first.
    """
    hosts = ["*"] if anywhere else list(_LOCAL)
    pages = _Pages(folder, token, is_leaving)
    routes = [
        Route("/", pages.show),
        Route("/run", pages.show),
        Route("/compare", pages.show),
        Route("/events", pages.events),
        Route("/decision", pages.decision),
        Route("/part/checkpoints", pages.checkpoints),
        Route("/part/network.svg", pages.network),
        Route("/part/units", pages.units),
        Route("/part/rollback", pages.question),
        Route("/verify", pages.verify, methods=["POST"]),
        Route("/rollback", pages.rollback, methods=["POST"]),
        Route("/health", pages.health),
        Route("/health/emrakul", pages.health),
        Route("/health/elesh/{worker:int}/structured_analysis", pages.health),
        Route("/metrics", pages.metrics),
        Route("/static/{name}", _static),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={EsperError: _refusal},
    )


class _Pages:
    """Answers requests about one folder; whatever reads files does so in a thread."""

    def __init__(self, folder: Folder, token: str, is_leaving: Callable[[], bool]) -> None:
        self._folder = folder
        self._token = token
        self._is_leaving = is_leaving
        self._changing = Changing()
        self._units = Units()

    async def show(self, request: Request) -> Response:
        page = await to_thread.run_sync(self._page, request.url.path, _names(request), _all(request))
        parts = await to_thread.run_sync(page.parts)
        name = request.query_params.get("run", "") if request.url.path == "/run" else ""
        return _document(page, parts, _later(name) if name else "")

    async def events(self, request: Request) -> Response:
        """What changes on a page from now on; first, whatever the page has not `seen` like that."""
        path = request.query_params.get("page", "/")
        page = await to_thread.run_sync(self._page, path, _names(request), _all(request))
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        seen = dict(
            pair.split(":", 1) for pair in request.query_params.get("seen", "").split(",") if ":" in pair
        )
        changes = _changes(page, seen, self._is_leaving)
        return StreamingResponse(changes, media_type="text/event-stream", headers=headers)

    async def decision(self, request: Request) -> Response:
        name = request.query_params.get("run", "")
        epoch = _number(request, "epoch", "Name the epoch of a decision by its number.")
        path = await self._path(name)
        body = await to_thread.run_sync(details.decision, path, epoch)
        head = (
            f'<header><p class="eyebrow"><a href="{link("run", run=name)}">{escape(name)}</a></p>'
            f"<h1>Decided after epoch {epoch}</h1></header>"
        )
        return _document(Page(f"{name}, epoch {epoch}", "", dict), {"head": head, "decision": body}, "")

    async def checkpoints(self, request: Request) -> Response:
        name = request.query_params.get("run", "")
        may = bool(self._token)
        answer = await self._part(name, lambda path: details.checkpoints(path, name, may_change=may))
        answer.background = BackgroundTask(details.warm_up)  # whoever looks at a run asks for decisions next
        return answer

    async def units(self, request: Request) -> Response:
        return await self._part(request.query_params.get("run", ""), self._units.shown)

    async def verify(self, request: Request) -> Response:
        """Lines of JSON: how far it is, and at last what was found."""
        if not is_ours(request.headers):
            raise ConfigError("Other pages may not ask for that.")
        path = await self._path(request.query_params.get("run", ""))
        found = await to_thread.run_sync(details.verified, path)
        return _secured(StreamingResponse(_lines(found), media_type="application/x-ndjson"))

    async def question(self, request: Request) -> Response:
        name, to = request.query_params.get("run", ""), _number(request, "to", _STEP)
        return await self._part(name, lambda path: question(path, name, to))

    async def rollback(self, request: Request) -> Response:
        if why := why_not(request.headers, self._token):
            return _secured(HTMLResponse(f'<p class="problem">{escape(why)}</p>', 403))
        to, seen = _number(request, "to", _STEP), request.query_params.get("seen", "")
        name = request.query_params.get("run", "")
        return await self._part(name, lambda path: self._changing.go_back(path, to, seen))

    async def network(self, request: Request) -> Response:
        name = request.query_params.get("run", "")
        path = await self._path(name)
        picture = await to_thread.run_sync(details.network, path, name)
        return _secured(Response(picture, media_type="image/svg+xml"))

    async def health(self, request: Request) -> Response:
        """503 only where something that runs does not do what it is for."""
        stories, unseen = await to_thread.run_sync(self._folder.stories, READING_SECONDS)
        if (number := request.path_params.get("worker")) is not None:
            answer = health.worker(stories, number)
        else:
            answer = (health.emrakul if request.url.path.endswith("/emrakul") else health.overall)(stories)
        if unseen:
            answer["not_read_yet"] = len(unseen)
        status = 503 if answer["status"] == health.Health.UNHEALTHY else 200
        return _secured(JSONResponse(answer, status))

    async def metrics(self, _: Request) -> Response:
        stories, _unseen = await to_thread.run_sync(self._folder.stories, READING_SECONDS)
        text = await to_thread.run_sync(exposition, stories)
        return _secured(Response(text, media_type=CONTENT_TYPE))

    async def _part(self, name: str, make: Callable[[Path], str]) -> Response:
        path = await self._path(name)
        return _secured(HTMLResponse(await to_thread.run_sync(make, path)))

    async def _path(self, name: str) -> Path:
        return (await to_thread.run_sync(self._folder.story, name)).path

    def _page(self, path: str, names: list[str], shows_all: bool) -> Page:
        if path == "/run":
            return run_page(self._folder, names[0] if names else "")
        return (
            comparison(self._folder, names)
            if path == "/compare"
            else overview(self._folder, shows_all=shows_all)
        )


def _number(request: Request, name: str, todo: str) -> int:
    try:
        return int(request.query_params.get(name, ""))
    except ValueError as error:
        raise ConfigError(todo) from error


def _lines(found: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Each as a line of JSON; what goes wrong on the way is the last one."""
    try:
        for one in found:
            yield json.dumps(one) + "\n"
    except EsperError as error:
        yield json.dumps({"html": f'<p class="problem">{escape(str(error))}</p>'}) + "\n"


def _all(request: Request) -> bool:
    return request.query_params.get("all") == "yes"


def _names(request: Request) -> list[str]:
    return list(dict.fromkeys(request.query_params.getlist("run")))


async def _changes(page: Page, seen: dict[str, str], is_leaving: Callable[[], bool]) -> AsyncIterator[str]:
    """Events with the parts that are other than those sent before; `seen` are digests of the page's own."""
    sent, quiet = seen, 0
    while not is_leaving():
        parts = await to_thread.run_sync(page.parts)
        now = {name: digest(html) for name, html in parts.items()}
        changed = {name: parts[name] for name in parts if sent.get(name) != now[name]}
        if changed:
            sent = now
            yield f"data: {json.dumps(changed)}\n\n"
        quiet = 0 if changed else quiet + 1
        if quiet and quiet % _BEATS == 0:
            yield ": nothing new\n\n"
        await asyncio.sleep(LOOK_SECONDS)


def _later(name: str) -> str:
    """Places for what the page's script asks for when the page is there and somebody comes near."""
    picture = link("part/network.svg", run=name)
    stored = _near(link("part/checkpoints", run=name), "Checkpoints", "Reading their manifests.")
    cells = _near(
        link("part/units", run=name),
        "The network as a map",
        "Ranking its units takes the server some seconds.",
    )
    return (
        f"{stored}{cells}"
        f'<section><details data-picture="{picture}"><summary><h2>What goes together</h2></summary>'
        "<p>Layers in the order of the computation, with the units that go through several of them. "
        f'<a href="{picture}">Open it alone</a></p>'
        f"{scrolled('What goes together', '', 'picture scroll')}</details></section>"
    )


def _near(address: str, title: str, meanwhile: str) -> str:
    return (
        f'<div data-load="{address}"><section><h2>{title}</h2><p class="none">{meanwhile}</p>'
        f'<noscript><a href="{address}">Show it</a></noscript></section></div>'
    )


def _document(page: Page, parts: dict[str, str], later: str) -> Response:
    template = Template(files("esper.web").joinpath("serve.html").read_text(encoding="utf-8"))
    body = "".join(
        f'<div id="part-{name}" class="part" data-digest="{digest(html)}">{html}</div>'
        for name, html in parts.items()
    )
    return _secured(
        HTMLResponse(
            template.substitute(title=escape(page.title), query=escape(page.query), body=body, later=later)
        )
    )


async def _refusal(request: Request, error: Exception) -> Response:
    """What cannot be shown, in the words of the error; whole pages get a page, parts a part."""
    status = 404 if isinstance(error, ConfigError) else 409
    title = "This was not done" if request.method == "POST" else "This cannot be shown"
    text = f'<section><h2>{title}</h2><p class="problem">{escape(str(error))}</p></section>'
    if request.url.path.startswith(("/part", "/verify", "/rollback")):
        return _secured(HTMLResponse(text, status))
    head = '<header><p class="eyebrow"><a href="/">All runs</a></p><h1>Esper</h1></header>'
    answer = _document(Page("Esper", "", dict), {"head": head, "refusal": text}, "")
    answer.status_code = status
    return answer


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _KINDS:
        return Response("There is no such file.", 404, media_type="text/plain")
    text = style() if name == "page.css" else files("esper.web").joinpath(name).read_text(encoding="utf-8")
    return _secured(Response(text, media_type=_KINDS[name]))


def _secured(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
