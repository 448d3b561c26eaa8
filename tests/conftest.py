"""What tests share: a cache directory, a tiny model, how inputs are drawn, and native code under each
instruction set.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from pairwise import covering
from tiny_llama import save_tiny_llama

from ozone.native import library

# A machine that is busy with something else draws inputs slowly; that is no fault of a test.
settings.register_profile("ozone", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("ozone")

# For this process and all that it starts: a test neither finds nor leaves anything in its user's cache.
# It is removed with the object, when the tests end.
_CACHE = tempfile.TemporaryDirectory(prefix="ozone-tests-")
os.environ["OZONE_CACHE_DIR"] = _CACHE.name

_NATIVE = library()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-combinations", action="store_true", help="run tests marked pairwise with every combination"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave a covering subset of each test that is marked `pairwise`."""
    if config.getoption("--all-combinations"):
        return
    groups: dict[str, list[pytest.Function]] = {}
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and item.get_closest_marker("pairwise")
            and hasattr(item, "callspec")
        ):
            groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    dropped: set[pytest.Item] = set()
    for group in groups.values():
        kept = covering([item.callspec.params for item in group])
        dropped.update(set(group) - {group[index] for index in kept})
    config.hook.pytest_deselected(items=list(dropped))
    items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama with tied embeddings and a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    save_tiny_llama(folder)
    return folder


@pytest.fixture(params=_NATIVE.isas() if _NATIVE else [])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with each instruction set that this machine and build have."""
    assert _NATIVE is not None
    before = _NATIVE.isa()
    _NATIVE.set_isa(request.param)
    yield request.param
    _NATIVE.set_isa(before)


@pytest.fixture
def set_num_threads() -> Iterator[Callable[[int], None]]:
    """Sets the size of the thread team; it is as before after the test."""
    assert _NATIVE is not None
    before = _NATIVE.num_threads()
    yield _NATIVE.set_num_threads
    _NATIVE.set_num_threads(before)
