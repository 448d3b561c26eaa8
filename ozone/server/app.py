"""The FastAPI application: its paths, its middleware, and the schema at `/openapi.json`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

from ozone.server.answers import VERSION
from ozone.server.auth import ApiKeyMiddleware
from ozone.server.context import ServerContext
from ozone.server.docs_page import add_docs
from ozone.server.errors import install_error_handlers
from ozone.server.hosts import HostMiddleware, HostRules, checks_hosts
from ozone.server.http_metrics import HttpMetricsMiddleware
from ozone.server.operations import add_operator_routes
from ozone.server.paths import RequestLineMiddleware
from ozone.server.request_ids import RequestIdHeaderMiddleware
from ozone.server.request_pacing import TurnMiddleware
from ozone.server.routes import REQUEST_MODELS, add_routes
from ozone.server.state import ServerState

_SCHEMA_REF = "#/components/schemas/{model}"


def create_app(state: ServerState) -> FastAPI:
    """An application that serves `state`. Its lifespan must run in the loop that answers requests."""
    settings = state.settings
    context = ServerContext(state)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with context.running():
            yield

    app = _Application(
        title="Ozone",
        version=VERSION,
        lifespan=lifespan,
        openapi_url="/openapi.json" if settings.docs else None,
        docs_url=None,
        redoc_url=None,
    )
    add_routes(app, context)
    add_operator_routes(app, context)
    if settings.docs:
        add_docs(app)
    install_error_handlers(app)
    if settings.api_keys:
        app.add_middleware(ApiKeyMiddleware, api_keys=settings.api_keys)
    if checks_hosts(settings):
        app.add_middleware(HostMiddleware, rules=HostRules(settings))
    if settings.request_id_headers:
        app.add_middleware(RequestIdHeaderMiddleware)
    if settings.allowed_origins:  # Outside what refuses, so that a refusal carries the headers too.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=settings.allowed_methods,
            allow_headers=settings.allowed_headers,
            allow_credentials=settings.allow_credentials,
        )
    app.add_middleware(HttpMetricsMiddleware, metrics=context.metrics.http)
    app.add_middleware(RequestLineMiddleware, root_path=settings.root_path, routes=app.routes)
    app.add_middleware(TurnMiddleware)
    return app


class _Application(FastAPI):
    """Bodies are parsed by our own code, so that their schemas have to be added to FastAPI's."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            schema = get_openapi(title=self.title, version=self.version, routes=self.routes)
            _, bodies = models_json_schema(
                [(model, "validation") for model in REQUEST_MODELS], ref_template=_SCHEMA_REF
            )
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.update(bodies["$defs"])
            for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, which never occurs
                components.pop(name, None)
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            self.openapi_schema = schema
        return self.openapi_schema
