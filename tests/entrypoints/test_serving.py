"""What the server says of a loaded model that it never sees."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ozone.config.schema import CacheConfig
from ozone.engine.outputs import EngineStats
from ozone.entrypoints.serving import server_state
from ozone.server.flags import ServerSettings


def loaded(template: object) -> Any:
    return SimpleNamespace(
        engine=SimpleNamespace(stats=lambda: EngineStats(num_blocks=7)),
        tokenizer=SimpleNamespace(vocab_size=9, special_tokens={"bos_token": "<s>"}),
        chat_template=template,
        default_sampling={},
        startup=SimpleNamespace(report=dict),
        config=SimpleNamespace(
            model=SimpleNamespace(served_model_name=("m",), max_model_len=64),
            scheduler=SimpleNamespace(max_waiting_requests=8),
            cache=CacheConfig(kv_cache_dtype="bfloat16"),
        ),
    )


def test_the_tokenizers_info_has_the_names_of_its_config_file() -> None:
    state = server_state(loaded(SimpleNamespace(source="{{ x }}")), ServerSettings())
    assert state.tokenizer_info() == {
        "tokenizer_class": "SimpleNamespace",
        "model_max_length": 64,
        "vocab_size": 9,
        "bos_token": "<s>",
        "chat_template": "{{ x }}",
    }
    assert "chat_template" not in server_state(loaded(None), ServerSettings()).tokenizer_info()


def test_the_kv_cache_is_described_under_vllms_names() -> None:
    info = server_state(loaded(None), ServerSettings()).cache_info
    assert info["num_gpu_blocks"] == "7"
    assert info["block_size"] == "16"
    assert info["cache_dtype"] == "bfloat16"
