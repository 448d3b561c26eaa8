"""vLLM's environment variables: each that is set and not read here gives one warning."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from ozone.config.schema import OzoneConfig
from ozone.config.vllm_environment import ADVICE, READ, notices
from ozone.server.flag_table import rows
from ozone.server.flags import ServerSettings

Resolved = Callable[..., OzoneConfig]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variables of vLLM's but those of a test."""
    for name in [name for name in os.environ if name.startswith("VLLM_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ADVICE)
def test_a_variable_that_is_set_gives_one_warning(name: str) -> None:
    assert notices({name: "1", "PATH": "/bin"}) == [
        f"the environment variable {name} is not read: {ADVICE[name]}"
    ]
    assert notices({name: ""}) == []


def test_what_the_server_reads_gives_none() -> None:
    read = {name for row in rows(ServerSettings).values() for name in row.environment}
    assert {name for name in read if name.startswith("VLLM_")} == READ
    assert not READ & ADVICE.keys()
    assert notices(dict.fromkeys(READ, "1")) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("VLLM_APIKEY", "is not read, and vLLM 0.33.0 has none of that name; did you mean VLLM_API_KEY?"),
        (
            "VLLM_USE_V1",
            "the environment variable VLLM_USE_V1 is not read, and vLLM 0.33.0 has none of that name",
        ),
        ("VLLM_\x1b[2J", "VLLM_\\x1b[2J is not read"),
    ],
)
def test_a_variable_that_vllm_has_not(name: str, message: str) -> None:
    (notice,) = notices({name: "1"})
    assert message in notice
    assert notice.isprintable()


def test_a_service_of_kubernetes_gives_one_warning() -> None:
    service = {
        "VLLM_PORT": "tcp://10.0.0.1:8000",
        "VLLM_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "VLLM_PORT_8000_TCP_ADDR": "10.0.0.1",
        "VLLM_SERVICE_HOST": "10.0.0.1",
        "VLLM_SERVICE_PORT": "8000",
        "VLLM_SERVICE_PORT_HTTP": "8000",
    }
    assert notices(service) == [
        "VLLM_PORT and 5 more: a service of Kubernetes in the environment, which is not read"
    ]
    assert "--host and --port" in notices({"VLLM_PORT": "9000"})[0]


def test_the_warnings_are_among_the_notices(resolved: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolved("-O1").notices == ()
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "4")
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert resolved("-O1").notices == (
        "the environment variable VLLM_CPU_KVCACHE_SPACE is not read: say --kv-cache-memory-bytes",
    )
