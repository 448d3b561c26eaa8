"""`/docs` and `/redoc`: the schema as pages, whose scripts and styles come from this server alone.

The assets are those of the package fastapi-offline, which is located and never imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from ozone.errors import RequestError

_SWAGGER = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Ozone: API</title>
<link rel="icon" href="docs/favicon.png"><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body></html>
"""
_REDOC = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Ozone: API</title>
<link rel="icon" href="docs/favicon.png"></head><body><redoc spec-url="openapi.json"></redoc>
<script src="docs/redoc.standalone.js"></script></body></html>
"""
# Without a validator, which is a service of a third party's.
_START = (
    'SwaggerUIBundle({dom_id: "#swagger-ui", url: "openapi.json", deepLinking: true, validatorUrl: null});\n'
)
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js", "favicon.png")
# Only files of this server run; nothing is loaded from elsewhere, whatever a schema or a model's name says.
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
}
_ASSET_HEADERS = {"cache-control": "max-age=86400", "x-content-type-options": "nosniff"}


def add_docs(app: FastAPI) -> None:
    """Give `app` the pages and what they load."""
    folder = _asset_folder()

    async def swagger(_: Request) -> Response:
        return _page(folder, _SWAGGER)

    async def redoc(_: Request) -> Response:
        return _page(folder, _REDOC)

    async def start(_: Request) -> Response:
        return Response(_START, media_type="text/javascript", headers=_ASSET_HEADERS)

    app.add_route("/docs", swagger, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
    app.add_route("/docs/start.js", start, include_in_schema=False)
    if folder is not None:
        for name in _ASSETS:
            app.add_route(f"/docs/{name}", _asset(folder / name), include_in_schema=False)


def _asset(file: Path) -> Callable[[Request], Awaitable[Response]]:
    async def asset(_: Request) -> Response:
        return FileResponse(file, headers=_ASSET_HEADERS)

    return asset


def _page(folder: Path | None, text: str) -> Response:
    if folder is None:
        raise RequestError(
            "The pages need the package fastapi-offline; the schema itself is at /openapi.json", status=501
        )
    return HTMLResponse(text, headers=_PAGE_HEADERS)


def _asset_folder() -> Path | None:
    found = importlib.util.find_spec("fastapi_offline")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "static"
