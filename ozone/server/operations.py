"""The paths of an operator: health, load, metrics, start-up, what is served; no model is asked here."""

from __future__ import annotations

import html
import logging
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import HTMLResponse, Response

from ozone.config.values import boolean
from ozone.errors import RequestError
from ozone.server import responses
from ozone.server.answers import VERSION, json_response
from ozone.server.context import ServerContext
from ozone.server.responses import errors

logger = logging.getLogger(__name__)

_PAGE = """<!doctype html><meta charset="utf-8"><title>Ozone</title>
<h1>Ozone {version}</h1><p>Serving <b>{model}</b>.</p>
<ul>{docs}<li><a href="v1/models">models</a>, <a href="metrics">metrics</a>, <a href="startup">start-up</a>,
<a href="health">health</a></ul>
"""
_DOCS = '<li><a href="docs">API</a> (<a href="openapi.json">schema</a>)\n'
# The page is plain HTML: whatever a model's name brings along, nothing of it runs or is loaded.
_PAGE_HEADERS = {"content-security-policy": "default-src 'none'; frame-ancestors 'none'"}


def add_operator_routes(app: FastAPI, context: ServerContext) -> None:
    """Give `app` the paths that operators and their tools use."""
    _add_health(app, context)
    _add_reports(app, context)
    settings = context.state.settings
    if settings.tokenizer_info_endpoint:
        _add_tokenizer_info(app, context)
    if settings.server_dev_mode:
        _add_reset(app, context)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        docs = _DOCS if settings.docs else ""
        text = _PAGE.format(version=VERSION, model=html.escape(context.model_name), docs=docs)
        return HTMLResponse(text, headers=_PAGE_HEADERS)


def _add_health(app: FastAPI, context: ServerContext) -> None:
    async def health() -> Response:
        context.check_ready()
        return Response()

    app.add_api_route("/health", health, methods=["GET"], responses=errors(503), response_class=Response)
    # What SageMaker asks.
    app.add_api_route(
        "/ping", health, methods=["GET"], name="ping", responses=errors(503), response_class=Response
    )
    app.add_api_route("/ping", health, methods=["POST"], include_in_schema=False)


def _add_reports(app: FastAPI, context: ServerContext) -> None:
    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get("/load", response_model=responses.LoadAnswer, responses=errors(401))
    async def load() -> Response:
        return json_response({"server_load": len(context.bridge.open)})

    @app.get("/version", response_model=responses.VersionAnswer, responses=errors(401))
    async def version() -> Response:
        return json_response({"version": VERSION})

    @app.get("/metrics", response_class=Response, responses={**text, **errors(401)})
    async def metrics() -> Response:
        return Response(context.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    @app.get("/startup", response_model=dict[str, Any], responses=errors(401))
    async def startup() -> Response:
        return json_response(context.state.startup_report())


def _add_tokenizer_info(app: FastAPI, context: ServerContext) -> None:
    @app.get("/tokenizer_info", response_model=dict[str, Any], responses=errors(401))
    async def tokenizer_info() -> Response:
        return json_response(context.state.tokenizer_info())


def _add_reset(app: FastAPI, context: ServerContext) -> None:
    @app.post("/reset_prefix_cache", response_model=responses.ResetAnswer, responses=errors(400, 401))
    async def reset_prefix_cache(reset_running_requests: str = "false") -> Response:
        if boolean(reset_running_requests, "reset_running_requests"):
            raise RequestError("Requests that run are not reset", param="reset_running_requests")
        success = context.state.engine.reset_prefix_cache()
        message = (
            "The prefix cache is empty" if success else "Requests run or wait: try again when they ended"
        )
        logger.info("Prefix cache: %s", message)
        return json_response({"success": success, "message": message})
