"""`ServerState`: all that an app serves from. Nothing here imports FastAPI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ozone.server.flags import ServerSettings
from ozone.server.interfaces import EngineClient, ServerChatTemplate, ServerTokenizer


@dataclass
class ServerState:
    """Everything an app serves from.

    Attributes:
        engine: started by the caller; `run_server` drains it and shuts it down.
        chat_template: None where the model has none: chat requests are then refused with a hint.
        model_names: the names a request may call the model by; answers carry the first.
        max_model_len: tokens of prompt and completion together.
        max_waiting_requests: length of the engine's bounded queue, so that what cannot fit is refused before
            any work is spent on it; None leaves that to the engine.
        default_sampling_params: the model's own defaults under `SamplingParams`' names, for fields
            that a request leaves unset.
        cache_info: how the KV cache is set up, as labels of a metric.
        tokenizer_info: called for `/tokenizer_info`; returns what can be written as JSON.
        startup_report: called for `/startup`; returns what can be written as JSON.
    """

    engine: EngineClient
    tokenizer: ServerTokenizer
    model_names: tuple[str, ...]
    max_model_len: int
    max_waiting_requests: int | None = None
    chat_template: ServerChatTemplate | None = None
    default_sampling_params: Mapping[str, Any] = field(default_factory=dict)
    cache_info: Mapping[str, str] = field(default_factory=dict)
    tokenizer_info: Callable[[], Mapping[str, Any]] = dict
    startup_report: Callable[[], Mapping[str, Any]] = dict
    settings: ServerSettings = field(default_factory=ServerSettings)
    draining: bool = False
