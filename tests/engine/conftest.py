"""Engines over a stub runner, shut down when the test ends."""

from __future__ import annotations

import pytest
from engine_stubs import make_engine


@pytest.fixture
def engines():
    """`make_engine`, whose engines are shut down after the test and must then hold no block."""
    made = []

    def make(*args, **kwargs):
        engine = make_engine(*args, **kwargs)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.shutdown()
        stats = engine.stats()
        assert engine.failure is None
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_free_blocks == stats.num_blocks
