"""What the server of a model answers, and what it refuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from ssrseg.errors import SSRError
from ssrseg.local_server import fault
from ssrseg.serving.answers import FORMS, accepted_form
from ssrseg.serving.service import Refused, Service

_LOG = logging.getLogger("ssrseg.serve")
_MULTIPART = "multipart/form-data"
_ENVELOPE = 10_000  # bytes of a form around its file
_IMAGE = {
    "required": True,
    "content": {
        "image/*": {"schema": {"type": "string", "format": "binary"}},
        _MULTIPART: {
            "schema": {
                "type": "object",
                "properties": {"image": {"type": "string", "format": "binary"}},
                "required": ["image"],
            }
        },
    },
}
_FAULTS = {
    400: "No image, or a form that cannot be read.",
    408: "The image came too slowly.",
    406: "No form of answers that the client accepts.",
    413: "More bytes or pixels than the server takes.",
    415: "No image.",
    422: "An image that is damaged, or that the model cannot use.",
    500: "A fault of the server.",
    503: "The model is being loaded, or too many wait: come again after Retry-After.",
}


def make_app(service: Service, title: str) -> FastAPI:
    """The server of a model; ``title`` says which."""
    app = FastAPI(title=f"ssrseg: {title}", description="Image in, segmentation mask out.")
    _answer_faults(app, service)
    _add_segment(app, service)
    _add_state(app, service, title)
    return app


def _answer_faults(app: FastAPI, service: Service) -> None:
    """Say what is wrong as JSON, whatever it is."""

    @app.exception_handler(HTTPException)
    async def known(_: Request, error: HTTPException) -> Response:
        service.metrics.errors.labels("address").inc()  # there is none, or not by this method
        return fault(str(error.detail), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        service.metrics.errors.labels("form").inc()
        first = error.errors()[0]
        return fault(f"{first['loc'][-1]}: {first['msg']}.", 400)


def _add_segment(app: FastAPI, service: Service) -> None:
    content: dict[str, Any] = {form.media_type: {} for form in FORMS.values()}
    answers: dict[int | str, dict[str, Any]] = {
        200: {"description": "The mask, or a table of its classes.", "content": content},
        **{status: {"description": text} for status, text in _FAULTS.items()},
    }

    @app.post(
        "/v1/segment",
        response_class=Response,
        responses=answers,
        openapi_extra={"requestBody": _IMAGE},
    )
    async def segment(
        request: Request,
        form: Annotated[
            Literal["png", "rle", "json"] | None,
            Query(alias="as", description="Form of the answer; else as Accept says."),
        ] = None,
    ) -> Response:
        """The mask of an image, which is the body of the request or a file of its form."""
        start = time.monotonic()
        try:
            wanted = form or accepted_form(request.headers.get("accept", "*/*"))
            if wanted is None:
                kinds = ", ".join(each.media_type for each in FORMS.values())
                raise Refused(406, "form", f"Answers are {kinds}: accept one of them.")
            answer = await _answer(request, service, wanted)
        except Refused as refused:
            service.metrics.errors.labels(refused.kind).inc()
            retry = {"Retry-After": str(refused.retry)} if refused.retry else None
            return fault(str(refused), refused.status, retry)
        except SSRError as error:  # of the model, not of the image
            service.metrics.errors.labels("model").inc()
            return fault(str(error), 500)
        except Exception:  # noqa: BLE001  # a client gets an answer whatever happens
            _LOG.exception("an image could not be segmented")
            service.metrics.errors.labels("server").inc()
            return fault("The server failed at this image; its log says how.", 500)
        service.metrics.requests.labels(wanted).inc()
        service.metrics.seconds.observe(time.monotonic() - start)
        return Response(answer, media_type=FORMS[wanted].media_type)


async def _answer(request: Request, service: Service, form: str) -> bytes:
    """Read an image and answer it, in time and as long as its client is there.

    Raises:
        Refused: If there is no answer.
        SSRError: If the model fails.
    """
    seconds = service.limits.seconds
    until = asyncio.get_running_loop().time() + seconds
    service.enter()
    try:
        try:
            async with asyncio.timeout_at(until):
                image = await _image(request, service.limits.most_bytes)
        except TimeoutError:
            raise Refused(
                408, "slow", f"The image did not come within {seconds:g} s (--seconds)."
            ) from None
        except ClientDisconnect as error:
            raise _gone() from error
        work = asyncio.ensure_future(service.answer(image, form))
        gone = asyncio.ensure_future(request.receive())  # the next message is that nobody waits
        left = until - asyncio.get_running_loop().time()
        try:
            await asyncio.wait({work, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
        finally:
            work.cancel()
            gone.cancel()
        if gone.done():
            raise _gone()
        raise Refused(
            503, "late", f"There was no mask within {seconds:g} s (--seconds).", round(seconds) or 1
        )
    finally:
        service.leave()


def _gone() -> Refused:
    return Refused(499, "gone", "The client has gone.")  # for the metrics: nobody reads it


async def _image(request: Request, most: int) -> bytes:
    """The image in the body of a request, or in the first file of its form."""
    form = request.headers.get("content-type", "").lower().startswith(_MULTIPART)
    bound = most + _ENVELOPE * form
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bound:
            raise Refused(
                413,
                "too_large",
                f"The image has more than the {most / 1e6:g} MB that this server takes"
                " (--megabytes). Save it smaller.",
            )
    image = await _file_of_form(request, bytes(body)) if form else bytes(body)
    if not image:
        raise Refused(
            400,
            "empty",
            "There is no image: send one as the body (curl --data-binary @photo.jpg) or as a file"
            " of a form (curl -F image=@photo.jpg).",
        )
    return image


async def _file_of_form(request: Request, body: bytes) -> bytes:
    async def once() -> AsyncGenerator[bytes]:
        yield body

    try:
        parser = MultiPartParser(request.headers, once(), max_files=1, max_fields=10)
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise Refused(400, "form", f"The form cannot be read ({error}).") from error
    try:
        for _, value in form.multi_items():
            if not isinstance(value, str):
                return await value.read()
    finally:
        await form.close()
    return b""


def _add_state(app: FastAPI, service: Service, title: str) -> None:
    @app.get("/")
    async def about(request: Request) -> dict[str, Any]:
        """Which model answers, what it knows, and what it takes."""
        limits, predictor = service.limits, service.predictor
        address = f"{request.url.scheme}://{request.url.netloc}"
        return {
            "model": title,
            "digest": predictor.made_with.model if predictor else None,
            "classes": list(predictor.model.classes) if predictor else None,
            "crf": predictor.crf if predictor else None,
            "device": str(predictor.model.device) if predictor else None,
            "forms": {name: form.media_type for name, form in FORMS.items()},
            "limits": vars(limits),
            "example": f"curl --data-binary @photo.jpg {address}/v1/segment -o mask.png",
            "more": [f"{address}{path}" for path in ("/docs", "/health", "/metrics")],
        }

    @app.get("/health", responses={503: {"description": "Not yet, or no more."}})
    async def health(response: Response) -> dict[str, str]:
        """Whether images are segmented."""
        if not service.ready:
            response.status_code = 503
        return {"status": "ready" if service.ready else "loading"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """What Prometheus reads."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")
