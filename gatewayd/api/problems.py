"""How the API says no: every error is an application/problem+json (RFC 9457), and repeats nothing of what was sent."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gatewayd.api.schemas import Problem
from gatewayd.core.rollout import CommandError
from gatewayd.core.targets import TargetError
from gatewayd.errors import CascadeError, ConfigError, StoreError

MEDIA_TYPE = "application/problem+json"
_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused", "content": _CONTENT},
    "5XX": {"description": "Not possible now", "content": _CONTENT},
}
_log = logging.getLogger(__name__)


def problem(status: int, detail: str = "", headers: dict[str, str] | None = None) -> Response:
    """The answer that says no."""
    said = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(said.model_dump_json(), status, headers, MEDIA_TYPE)


def handle(app: FastAPI) -> None:
    """Let every error that an endpoint may raise become a problem."""

    async def refused(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = error.detail if error.detail != HTTPStatus(error.status_code).phrase else ""
        return problem(error.status_code, detail, dict(error.headers or {}))

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(422, "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())[:1_000])

    async def impossible(_request: Request, error: Exception) -> Response:
        return problem(409, str(error))

    async def unreadable(_request: Request, error: Exception) -> Response:
        return problem(422, str(error))

    async def no_store(_request: Request, error: Exception) -> Response:
        _log.warning("%s", error)
        return problem(503, "the store does not answer")

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(CommandError, impossible)
    app.add_exception_handler(ConfigError, impossible)
    app.add_exception_handler(TargetError, impossible)
    app.add_exception_handler(CascadeError, unreadable)
    app.add_exception_handler(StoreError, no_store)
