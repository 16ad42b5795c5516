"""What an error looks like over HTTP: the one table of statuses and the one shape. Knows no route."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.request_log import request_id
from backends.errors import (
    Busy,
    Conflict,
    EngineFailed,
    Forbidden,
    HubUnreachable,
    InvalidRequest,
    ModelError,
    ModelUnusable,
    NoModelLoaded,
    NotFound,
    NotReady,
    QuartetError,
    StorageFull,
    StorageUnreachable,
    TooLarge,
    Unauthorized,
)

logger = logging.getLogger("quartet.api")

# The lookup walks an error's own bases, the nearest one first.
STATUS: Mapping[type[QuartetError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    ModelUnusable: 422,
    Busy: 429,
    NotReady: 503,
    ModelError: 500,
    QuartetError: 500,
    HubUnreachable: 502,
    NoModelLoaded: 503,
    EngineFailed: 503,
    StorageUnreachable: 503,
    StorageFull: 507,
}

Shape = dict[str, dict[str, str | None]]


@dataclass(frozen=True)
class Problem:
    """`message` is the cause and the remedy in a sentence, `code` the kind of error, `type` what OpenAI calls it, and
    `param` the field that is wrong."""

    message: str
    type: str
    param: str | None
    code: str


@dataclass(frozen=True)
class Error:
    """What every error looks like."""

    error: Problem


# For the OpenAPI document.
DESCRIBED: dict[int | str, dict[str, Any]] = {
    "default": {"model": Error, "description": "What is wrong, with a status of 400 or more."}
}

# code -> what OpenAI calls an error of this kind, where it is not the request's fault.
_OPENAI_TYPES: Mapping[str, str] = {
    "unauthorized": "authentication_error",
    "forbidden": "permission_error",
    "forbidden_host": "permission_error",
    "forbidden_origin": "permission_error",
    "busy": "rate_limit_error",
    **dict.fromkeys(("model_error", "no_model", "not_ready", "engine_failed", "hub_unreachable"), "server_error"),
    **dict.fromkeys(("error", "internal", "storage_full", "storage_unreachable"), "server_error"),
}

# What Starlette and FastAPI raise by themselves, in our words.
_HTTP_WORDS: Mapping[int, tuple[str, str]] = {
    400: ("invalid_request", "The request is malformed."),
    404: ("not_found", "There is nothing at this address: GET /docs lists what there is."),
    405: ("method_not_allowed", "This address does not take that method: GET /docs says which it takes."),
    413: ("too_large", "The request is too large."),
}


def status_of(error: QuartetError) -> int:
    """The HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def shape(code: str, message: str, field: str = "") -> Shape:
    """The JSON form of every error, which is also OpenAI's: its clients look for `type` and `param`."""
    kind = _OPENAI_TYPES.get(code, "invalid_request_error")
    return {"error": {"code": code, "message": message, "type": kind, "param": field or None}}


def error_response(error: QuartetError) -> Response:
    """The answer for an error that a user may see."""
    headers: dict[str, str] = {}
    if isinstance(error, Busy):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, NoModelLoaded | EngineFailed):
        headers["Retry-After"] = "5"
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error_shape(error), status_of(error), headers)


def error_shape(error: QuartetError) -> Shape:
    """The JSON form of an error that a user may see."""
    return shape(error.code, error.message, error.field if isinstance(error, InvalidRequest) else "")


def unexpected(error: BaseException) -> Shape:
    """The JSON form of an error nobody foresaw: a number to look up in the log, where the details go and stay."""
    number = request_id() or secrets.token_hex(8)
    logger.error("unexpected error %s", number, exc_info=error)
    return shape("internal", f"Something went wrong inside Quartet; the log has the details under {number}.")


class CatchUnexpected:
    """ASGI middleware: an exception nobody foresaw becomes a 500 in our shape, with its details in the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            return  # nobody is left to answer
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await JSONResponse(unexpected(error), 500)(scope, receive, send)


async def _quartet_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuartetError)  # noqa: S101  registered for this class only
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this class only
    code, message = _HTTP_WORDS.get(error.status_code, ("error", str(error.detail)))
    return JSONResponse(shape(code, message), error.status_code, error.headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    """Name the first wrong field and say what is wrong with it."""
    assert isinstance(error, RequestValidationError)  # noqa: S101  registered for this class only
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(InvalidRequest(f"The body is not valid JSON: {first.get('ctx', {}).get('error', '')}."))
    where = ".".join(str(part) for part in first["loc"][1:])
    if not where:
        return error_response(InvalidRequest("The body must be a JSON object, sent as application/json."))
    return error_response(InvalidRequest(f"{where}: {first['msg']}.", where))


def install(app: FastAPI) -> None:
    """Make `app` answer every error in the one shape."""
    app.add_exception_handler(QuartetError, _quartet_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
