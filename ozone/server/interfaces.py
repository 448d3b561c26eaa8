"""What the server needs of the engine, the tokenizer and the chat template, and nothing more.

`ozone.engine` fulfils these protocols; a test may fulfil them with less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ozone.engine.output_text import Detokenizer
from ozone.engine.outputs import EngineStats, RequestDelta
from ozone.engine.prepared_params import PreparedParams
from ozone.engine.sampling_params import SamplingParams

OnDelta = Callable[[RequestDelta], None]


class EngineClient(Protocol):
    """An engine that runs in a thread of its own."""

    @property
    def failure(self) -> BaseException | None:
        """Why the engine died, or None while it lives."""

    def prepare(self, params: SamplingParams) -> PreparedParams:
        """Check parameters and make ready what prompts share. Raises RequestError."""

    def add_request(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: PreparedParams,
        *,
        on_delta: OnDelta,
        priority: int = 0,
        cache_salt: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Queue a request; `on_delta` is called in the engine's thread. Raises RequestError."""

    def abort(self, request_id: str) -> None:
        """End a request and free its blocks; unknown and finished ids are fine."""

    def stats(self) -> EngineStats:
        """A snapshot of the engine's state and counters."""

    def reset_prefix_cache(self) -> bool:
        """Forget every cached prefix. False, and nothing is done, while requests run or wait."""

    def drain(self, timeout: float | None) -> bool:
        """Refuse new requests and wait for the running ones: whether they ended in time."""

    def shutdown(self) -> None:
        """Stop the engine's thread."""


class ServerTokenizer(Protocol):
    """Text to token ids and back."""

    @property
    def vocab_size(self) -> int:
        """Token ids are 0 to vocab_size - 1."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token ids of a text."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids."""

    def token_text(self, token_id: int) -> str:
        """One token as log-probabilities show it."""

    def token_bytes(self, token_id: int, skip_special_tokens: bool = False) -> bytes:
        """What one token adds to a text."""

    def token_spelling(self, token_id: int) -> str:
        """One token as the vocabulary spells it."""

    def detokenizer(self, prompt_token_ids: Sequence[int], skip_special_tokens: bool = True) -> Detokenizer:
        """A decoder for the tokens that follow a prompt."""


class ServerChatTemplate(Protocol):
    """Renders a conversation as the prompt that the model was trained on."""

    @property
    def source(self) -> str:
        """The template itself, in Jinja."""

    def with_content_format(self, name: str) -> ServerChatTemplate:
        """A copy that gets messages' contents as `auto`, `string` or `openai` says."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt text. Raises RequestError where the template refuses the conversation."""
