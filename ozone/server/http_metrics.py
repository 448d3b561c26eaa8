"""Metrics of HTTP requests under the names that FastAPI's usual instrumentator (and so vLLM) gives them."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Asked again and again by machines, which would drown the rest.
_UNCOUNTED = frozenset({"/metrics", "/health", "/load", "/ping", "/version"})
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FEW_BUCKETS = (0.1, 0.5, 1.0)
_MANY_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0,
    30.0, 60.0,
)  # fmt: skip


class HttpMetrics:
    """The metrics, in `registry`. Labels are paths of routes and known methods: no client can add to them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        where = ["handler", "method"]
        self._requests = Counter(
            "http_requests",
            "Requests by method, status and path.",
            [*where[::-1], "status"],
            registry=registry,
        )
        self._request_bytes = Summary(
            "http_request_size_bytes", "Content-Length of requests.", ["handler"], registry=registry
        )
        self._response_bytes = Summary(
            "http_response_size_bytes", "Content-Length of answers.", ["handler"], registry=registry
        )
        self._durations = Histogram(
            "http_request_duration_seconds",
            "From the head of a request to the end of its answer, by path.",
            where,
            buckets=_FEW_BUCKETS,
            registry=registry,
        )
        self._all_durations = Histogram(
            "http_request_duration_highr_seconds",
            "From the head of a request to the end of its answer.",
            buckets=_MANY_BUCKETS,
            registry=registry,
        )

    def count(self, scope: Scope, status: int, answer_bytes: int, seconds: float) -> None:
        """Count one request that has been answered."""
        handler = getattr(scope.get("route"), "path", "none")
        if handler in _UNCOUNTED:
            return
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._requests.labels(method=method, status=f"{status // 100}xx", handler=handler).inc()
        self._request_bytes.labels(handler).observe(_length(Headers(scope=scope)))
        self._response_bytes.labels(handler).observe(answer_bytes)
        self._durations.labels(handler, method).observe(seconds)
        self._all_durations.observe(seconds)


class HttpMetricsMiddleware:
    """Counts every request in `metrics`. An exception counts as the 500 that it becomes."""

    def __init__(self, app: ASGIApp, *, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), 500, 0

        async def send_noting(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status, size = message["status"], _length(Headers(raw=message.get("headers", [])))
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        finally:
            self._metrics.count(scope, status, size, time.perf_counter() - began)


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else 0
