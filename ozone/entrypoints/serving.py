"""What the HTTP server needs to know of a loaded model, gathered in its own `ServerState`."""

from __future__ import annotations

from typing import Any

from ozone.entrypoints.assemble import LoadedModel
from ozone.server.flags import ServerSettings
from ozone.server.state import ServerState


def server_state(loaded: LoadedModel, settings: ServerSettings) -> ServerState:
    """The state that the server serves from; it never sees a tensor or a file."""
    return ServerState(
        engine=loaded.engine,
        tokenizer=loaded.tokenizer,
        chat_template=loaded.chat_template,
        model_names=loaded.config.model.served_model_name,
        max_waiting_requests=loaded.config.scheduler.max_waiting_requests,
        max_model_len=loaded.config.model.max_model_len,
        default_sampling_params=loaded.default_sampling,
        cache_info=_cache_info(loaded),
        tokenizer_info=lambda: _tokenizer_info(loaded),
        startup_report=loaded.startup.report,
        settings=settings,
    )


def _cache_info(loaded: LoadedModel) -> dict[str, str]:
    """The KV cache under the names of vLLM's metric."""
    cache = loaded.config.cache
    return {
        "block_size": str(cache.block_size),
        "cache_dtype": cache.kv_cache_dtype,
        "enable_prefix_caching": str(cache.enable_prefix_caching),
        "kv_cache_memory_bytes": str(cache.kv_cache_memory_bytes),
        "num_gpu_blocks": str(loaded.engine.stats().num_blocks),
    }


def _tokenizer_info(loaded: LoadedModel) -> dict[str, Any]:
    """What clients need to build prompts themselves, under the names of ``tokenizer_config.json``."""
    tokenizer, template = loaded.tokenizer, loaded.chat_template
    return {
        "tokenizer_class": type(tokenizer).__name__,
        "model_max_length": loaded.config.model.max_model_len,
        "vocab_size": tokenizer.vocab_size,
        **tokenizer.special_tokens,
        **({} if template is None else {"chat_template": template.source}),
    }
