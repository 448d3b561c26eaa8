"""The bodies of requests: which fields exist, their types, and which known fields are refused.

Ranges of sampling parameters are `SamplingParams`' business. Unknown fields are accepted, as OpenAI's
clients send them, except those that ask for something that would silently not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, PrivateAttr

from ozone.engine.sampling_params import MISSING_ARGUMENTS
from ozone.errors import RequestError

MAX_PROMPTS = 2048
MAX_N = 128
MAX_MESSAGES = 16384
# Work per token grows with these, and they come from anybody.
MAX_STRINGS = 256
MAX_STRING_CHARACTERS = 16384

# Field -> (what it asks for, values besides null and empty that ask for nothing).
_UNSUPPORTED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    **{name: ("This sampling parameter", (unused,)) for name, unused in MISSING_ARGUMENTS.items()},
    "best_of": ("Choosing the best of several completions", (1,)),
    "detokenize": ("An answer without text", (True,)),
    "skip_reading_prefix_cache": ("Bypassing the prefix cache", (False,)),
    "vllm_xargs": ("Passing extra arguments", ()),
    "kv_transfer_params": ("Moving the KV cache between servers", ()),
    "tools": ("Tool calling", ()),
    "tool_choice": ("Tool calling", ("none", "auto")),
    "functions": ("Function calling", ()),
    "function_call": ("Function calling", ("none", "auto")),
    "response_format": ("Structured output", ({"type": "text"},)),
    "structured_outputs": ("Structured output", ()),
    "guided_json": ("Structured output", ()),
    "guided_regex": ("Structured output", ()),
    "guided_choice": ("Structured output", ()),
    "guided_grammar": ("Structured output", ()),
    "suffix": ("Inserting text before a suffix", ()),
    "use_beam_search": ("Beam search", (False,)),
    "logits_processors": ("Custom logits processors", ()),
    "prompt_embeds": ("A prompt of embeddings", ()),
    "audio": ("Audio", ()),
    "modalities": ("Any modality but text", (["text"],)),
    "chat_template": ("A chat template inside a request", ()),
    "documents": ("Documents for retrieval", ()),
    "web_search_options": ("Web search", ()),
    "truncate_prompt_tokens": ("Truncating the prompt", ()),
}


def _strings(value: Any) -> list[str]:
    """One string, some, or null for none, always as a list."""
    strings = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        raise ValueError("expected a string or a list of strings")
    if len(strings) > MAX_STRINGS or sum(map(len, strings)) > MAX_STRING_CHARACTERS:
        raise ValueError(
            f"at most {MAX_STRINGS} strings, together at most {MAX_STRING_CHARACTERS} characters"
        )
    return strings


def is_token_ids(value: Any) -> bool:
    """Whether a JSON value is a list of integers, which bools are not."""
    return isinstance(value, list) and all(type(item) is int for item in value)


def _prompts(value: Any) -> list[str | list[int]]:
    """One prompt or many, texts or token ids, always as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if len(value) <= MAX_PROMPTS or type(value[0]) is int:
            if all(isinstance(item, str) for item in value):
                return value
            if is_token_ids(value):
                return [value]
            if all(is_token_ids(item) for item in value):
                return value
        else:
            raise ValueError(f"at most {MAX_PROMPTS} prompts in one request")
    raise ValueError("expected a text, a list of token ids, or a non-empty list of either")


def _messages(value: Any) -> Any:
    """Refuse too many messages before one of them is looked at."""
    if isinstance(value, list) and len(value) > MAX_MESSAGES:
        raise ValueError(f"{len(value)} messages; at most {MAX_MESSAGES} make a conversation")
    return value


def _content(value: Any) -> Any:
    """A message's content; the chat template joins its parts, or reads them."""
    for part in value if isinstance(value, list) else []:
        if not isinstance(part, str | dict):
            raise ValueError("a part must be an object with a type")
        if isinstance(part, dict) and part.get("type") != "text":
            raise ValueError(f"parts of type {part.get('type')!r} are not supported, only 'text'")
        if isinstance(part, dict) and not isinstance(part.get("text"), str):
            raise ValueError("the text of a part must be a string")
    if value is None or isinstance(value, str | list):
        return value
    raise ValueError("expected a string or a list of parts")


def _logit_bias(value: Any) -> dict[int, float] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("expected an object of token ids and numbers")
    biases = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 12):
            raise ValueError("the keys must be token ids")
        if type(bias) not in (int, float):
            raise ValueError("the values must be numbers")
        biases[int(key)] = float(bias)
    return biases


_TextOrList = str | list[str] | None
_Prompt = str | list[int] | list[str] | list[list[int]]
_Content = str | list[str | dict[str, Any]] | None
Strings = Annotated[list[str], PlainValidator(_strings, _TextOrList)]


def _null_means(default: Any) -> Callable[[Any], Any]:
    return lambda value: default if value is None else value


# Fields that may be null, which means what leaving them out does.
Count = Annotated[
    int, Field(ge=1, le=MAX_N), BeforeValidator(_null_means(1), Annotated[int, Field(ge=1, le=MAX_N)] | None)
]
Zero = Annotated[int, BeforeValidator(_null_means(0), int | None)]
Off = Annotated[bool, BeforeValidator(_null_means(False), bool | None)]
On = Annotated[bool, BeforeValidator(_null_means(True), bool | None)]


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    def refuse_unsupported(self) -> None:
        """Raise RequestError for a field that asks for what Ozone does not do."""
        for name, value in (self.model_extra or {}).items():
            if name in _UNSUPPORTED and value not in (None, "", [], {}):
                what, harmless = _UNSUPPORTED[name]
                if value not in harmless:
                    raise RequestError(f"{what} is not supported ('{name}')", param=name)


class RequestBody(_Fields):
    """A whole body."""

    _num_bytes: int = PrivateAttr(0)

    def set_num_bytes(self, num_bytes: int) -> None:
        """Say how long the body was."""
        self._num_bytes = num_bytes

    @property
    def num_bytes(self) -> int:
        """Its length as JSON: how much work it can make, whatever it consists of."""
        return self._num_bytes


class StreamOptions(_Fields):
    """What a stream tells besides its text."""

    include_usage: Off = False
    continuous_usage_stats: Off = False


class GenerationRequest(RequestBody):
    """What both kinds of generation take: OpenAI's sampling fields and vLLM's extra ones."""

    model: str | None = None
    n: Count = 1
    stream: Off = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: Strings = []
    logit_bias: Annotated[dict[int, float] | None, PlainValidator(_logit_bias, dict[str, float] | None)] = (
        None
    )
    user: str | None = None

    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: Zero = 0
    ignore_eos: Off = False
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: Off = False
    skip_special_tokens: On = True
    prompt_logprobs: int | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: Strings = []
    priority: Zero = 0
    cache_salt: str | None = None
    return_token_ids: Off = False
    return_tokens_as_token_ids: Off = False
    request_id: str | None = None

    def check(self) -> None:
        """Raise RequestError for what types alone do not show."""
        self.refuse_unsupported()
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream: true", param="stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise RequestError("prompt_logprobs does not go with stream: true", param="prompt_logprobs")


class CompletionRequest(GenerationRequest):
    """The body of `/v1/completions`."""

    prompt: Annotated[list[str | list[int]], PlainValidator(_prompts, _Prompt)]
    echo: Off = False
    logprobs: int | None = None
    best_of: int | None = None
    add_special_tokens: On = True

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of != self.n:
            raise RequestError("best_of is not supported unless it equals n", param="best_of")


class ChatMessage(_Fields):
    """One message; fields besides these reach the chat template as they are."""

    role: str
    content: Annotated[_Content, PlainValidator(_content, _Content)] = None

    def text(self) -> str:
        """The content as plain text."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "\n".join(part if isinstance(part, str) else part["text"] for part in self.content)


class Conversation(RequestBody):
    """What is rendered with the chat template."""

    messages: Annotated[list[ChatMessage], BeforeValidator(_messages)] = Field(min_length=1)
    add_generation_prompt: On = True
    continue_final_message: Off = False
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: Off = False


class ChatCompletionRequest(GenerationRequest, Conversation):
    """The body of `/v1/chat/completions`."""

    max_completion_tokens: int | None = None
    logprobs: Off = False
    top_logprobs: int | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        if (self.model_extra or {}).get("echo"):
            raise RequestError("echo is not supported in chat", param="echo")


class TokenizeTextRequest(RequestBody):
    """The body of `/tokenize` for a text."""

    model: str | None = None
    prompt: str
    add_special_tokens: On = True
    return_token_strs: Off = False


class TokenizeChatRequest(Conversation):
    """The body of `/tokenize` for a conversation."""

    model: str | None = None
    return_token_strs: Off = False


class DetokenizeRequest(RequestBody):
    """The body of `/detokenize`."""

    model: str | None = None
    tokens: list[int]
