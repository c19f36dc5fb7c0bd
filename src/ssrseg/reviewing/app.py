"""The server of the page: what it answers, and whom. Only ``serve`` imports it, for FastAPI."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field

from ssrseg.console import printable, printable_lines, without_bars
from ssrseg.errors import DataError, SSRError
from ssrseg.export.formats import FORMATS
from ssrseg.export.run import export_masks
from ssrseg.export.source import Only
from ssrseg.local_server import fault
from ssrseg.overlay import hex_colours
from ssrseg.reviewing.folder import Ids, ReviewFolder, Stale

HOSTS = ("127.0.0.1", "localhost")
"""Names under which the page may be asked for: another one leads here by a trick of DNS."""

MOST_PIXELS = 1 << 25
"""Of a mask that can be brushed: a browser holds several copies."""

_LARGEST = 1 << 16  # bytes of a request that holds no mask
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src"
    " 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors"
    " 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_Next = Callable[[Request], Awaitable[Response]]
_Index = Annotated[int, Path(ge=0)]
_Version = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class _Body(BaseModel):
    """What a page sends, in JSON; nothing else may be in it."""

    model_config = ConfigDict(extra="forbid", strict=True)


class _Decision(_Body):
    decision: Literal["accepted", "rejected", ""]
    version: _Version


class _Labels(_Body):
    labels: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=254)]
    version: _Version


class _Reset(_Body):
    version: _Version


class _Export(_Body):
    to: str
    only: Only | None


def make_app(folder: ReviewFolder, token: str) -> FastAPI:
    """The server of a folder.

    Args:
        token: Who opens the page with it is let in, and nobody else.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _guard(app, token)
    _answer_faults(app)
    _add_page(app, folder, token)
    _add_images(app, folder)
    _add_changes(app, folder)
    return app


def new_token() -> str:
    """A secret of this session."""
    return secrets.token_urlsafe(24)


def _guard(app: FastAPI, token: str) -> None:
    """Let in nobody but the page itself, and no body that is larger than what it sends."""

    @app.middleware("http")
    async def guard(request: Request, call_next: _Next) -> Response:
        response = _refusal(request, token) or await call_next(request)
        for name, value in _HEADERS.items():
            response.headers[name] = value
        return response


def _refusal(request: Request, token: str) -> Response | None:
    """Why a request is not answered; None if it is."""
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in HOSTS:
        return PlainTextResponse(f"Ask for {HOSTS[0]}, not for another name.", 421)
    if request.url.path == "/" and "token" in request.query_params:
        return None  # the page looks at it
    if not _same(request.cookies.get(_cookie(request), ""), token):
        return PlainTextResponse(
            "This page is for who started it: open the address that `ssrseg review` has printed"
            " last.",
            403,
        )
    if request.method in ("GET", "HEAD"):
        return None
    # a browser sends both with what another site's page asks for, and lets no page forge them
    if request.headers.get("origin") != f"http://{host}":
        return PlainTextResponse("This comes from another origin.", 403)
    if not _same(request.headers.get("x-review-token", ""), token):
        return PlainTextResponse("This does not come from the page.", 403)
    length, mask = request.headers.get("content-length", ""), request.method == "PUT"
    if not length.isdecimal() or len(length) > 12:
        return PlainTextResponse("A length is expected.", 411)
    if int(length) > (MOST_PIXELS if mask else _LARGEST):
        return PlainTextResponse("This is too large.", 413)
    kind = "application/octet-stream" if mask else "application/json"
    if request.headers.get("content-type") != kind:
        return PlainTextResponse(f"{kind} is expected.", 415)
    return None


def _cookie(request: Request) -> str:
    """A browser sends the cookies of all ports of a machine to each of them."""
    return f"ssrseg-review-{request.url.port or 80}"


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _answer_faults(app: FastAPI) -> None:
    """Say what is wrong, in a paragraph that the page shows."""

    @app.exception_handler(SSRError)
    def unusable(_: Request, error: Exception) -> Response:
        return fault(str(error), 422)

    @app.exception_handler(Stale)
    def stale(_: Request, __: Exception) -> Response:
        return fault("Mask, labels or decision have changed meanwhile: see what is there now.", 409)

    @app.exception_handler(RequestValidationError)
    def invalid(_: Request, __: Exception) -> Response:
        # without the values, which may be large
        return fault("The request is not as the page sends it.", 400)


def _add_page(app: FastAPI, folder: ReviewFolder, token: str) -> None:
    environment = Environment(
        loader=PackageLoader("ssrseg", "reviewing"), autoescape=True, undefined=StrictUndefined
    )
    template = environment.get_template("page.html.jinja")
    own, shared = files("ssrseg.reviewing"), files("ssrseg.report")

    @app.get("/")
    def page(request: Request) -> Response:
        given = request.query_params.get("token")
        if given is not None:
            if not _same(given, token):
                return PlainTextResponse(
                    "This address is of an earlier review: open the one that `ssrseg review` has"
                    " printed last.",
                    403,
                )
            response: Response = RedirectResponse("/", 303)
            response.set_cookie(_cookie(request), token, httponly=True, samesite="strict")
            return response
        html = template.render(title=folder.folder.resolve().name, token=token)
        return Response(printable_lines(html), media_type="text/html")

    @app.get("/page.css")
    def style() -> Response:
        parts = (shared.joinpath("colours.css"), own.joinpath("page.css"))
        return Response("".join(part.read_text("utf-8") for part in parts), media_type="text/css")

    @app.get("/page.js")
    def script() -> Response:
        return Response(own.joinpath("page.js").read_bytes(), media_type="text/javascript")

    @app.get("/api/folder")
    def about() -> dict[str, Any]:
        return {
            "classes": folder.classes,
            "colours": hex_colours(len(folder.classes)),
            "alpha": folder.alpha,
            "from_labels": folder.encoders.made_from == "labels",
            "formats": list(FORMATS),
            "encoders": _encoders(folder),
            "images": [folder.summary(index) for index in range(len(folder.names))],
        }

    @app.get("/api/encoders")
    def encoders() -> dict[str, str]:
        return _encoders(folder)

    @app.post("/api/encoders")
    def wake() -> dict[str, str]:
        folder.encoders.start()
        return _encoders(folder)


def _encoders(folder: ReviewFolder) -> dict[str, str]:
    return {"state": folder.encoders.state, "why": folder.encoders.why_not}


def _place(folder: ReviewFolder) -> Callable[[int], int]:
    """Lets pass what is the place of an image."""

    def at(index: int) -> int:
        if index >= len(folder.names):
            raise HTTPException(404, "There is no such image.")
        return index

    return at


def _add_images(app: FastAPI, folder: ReviewFolder) -> None:
    at = _place(folder)

    @app.get("/api/images/{index}")
    def detail(index: _Index) -> dict[str, Any]:
        return folder.detail(at(index))

    @app.get("/api/images/{index}/photo.jpg")
    def photo(index: _Index) -> Response:
        return Response(folder.photo(at(index)), media_type="image/jpeg")

    @app.get("/api/images/{index}/mask")
    def mask(index: _Index) -> Response:
        return _ids(folder.ids(at(index)))

    @app.get("/api/images/{index}/threshold")
    def threshold(
        index: _Index,
        alpha: Annotated[float, Query(ge=1e-3, le=1e3)],
        refined: bool,
    ) -> Response:
        return _ids(folder.with_threshold(at(index), alpha, refined=refined))


def _add_changes(app: FastAPI, folder: ReviewFolder) -> None:
    at = _place(folder)

    @app.post("/api/images/{index}/decision")
    def decide(index: _Index, body: _Decision) -> dict[str, Any]:
        folder.decide(at(index), body.decision, body.version)
        return folder.detail(index)

    @app.post("/api/images/{index}/labels")
    def relabel(index: _Index, body: _Labels) -> dict[str, Any]:
        folder.relabel(at(index), body.labels, body.version)
        return folder.detail(index)

    @app.post("/api/images/{index}/reset")
    def reset(index: _Index, body: _Reset) -> dict[str, Any]:
        folder.reset(at(index), body.version)
        return folder.detail(index)

    @app.put("/api/images/{index}/mask")
    async def write(
        index: _Index,
        request: Request,
        width: Annotated[int, Query(ge=1, le=1 << 20)],
        height: Annotated[int, Query(ge=1, le=1 << 20)],
        version: Annotated[str, Query(pattern="^[0-9a-f]{16}$")],
    ) -> dict[str, Any]:
        content = await request.body()
        return await run_in_threadpool(_write, folder, at(index), content, (height, width), version)

    @app.post("/api/export")
    def export(body: _Export) -> dict[str, Any]:
        with without_bars():
            result = export_masks(folder.folder, body.to, images=folder.images, only=body.only)
        return {
            "written": result.written,
            "out": printable(str(result.out)),
            "then": printable(result.then),
            "failures": [printable(f"{each.name}: {each.reason}") for each in result.failures[:20]],
        }


def _write(
    folder: ReviewFolder, index: int, content: bytes, size: tuple[int, int], version: str
) -> dict[str, Any]:
    """Write a mask that the page has sent, a byte per pixel."""
    if len(content) != size[0] * size[1]:
        raise DataError("The mask that was sent is not of the size that was said.")
    ids = torch.from_numpy(np.frombuffer(content, np.uint8).copy().reshape(size))
    folder.write(index, ids, version)
    return folder.detail(index)


def _ids(ids: Ids) -> Response:
    """A mask, a byte per pixel; one that is too large to be brushed is made smaller."""
    while ids.numel() > MOST_PIXELS:
        ids = ids[::2, ::2]
    return Response(
        ids.numpy().tobytes(),
        media_type="application/octet-stream",
        headers={"X-Size": f"{ids.shape[1]} {ids.shape[0]}"},
    )
