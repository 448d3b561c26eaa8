"""`ozone serve`: the HTTP server."""

from ozone.entrypoints.api_server import main

__all__ = ["main"]
