"""A stub server on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stub_openai_server import StubServer


@pytest.fixture
def stub_server() -> Iterator[StubServer]:
    """A stub that serves until the test ends."""
    server = StubServer()
    yield server
    server.close()
