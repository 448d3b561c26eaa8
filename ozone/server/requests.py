"""The bodies of requests: which fields exist, and which of them contradict each other.

Ranges of sampling parameters are `SamplingParams`' business. Unknown fields are accepted, as OpenAI's
clients send them, and leave a trace in the log, except those of `unsupported_fields.py`, which are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from ozone.engine.sampling_params import MAX_LOGPROB_TOKEN_IDS
from ozone.errors import RequestError
from ozone.server.ignored_fields import OF_MESSAGES, note_ignored
from ozone.server.lax_values import Boolean, Integer, Number, Off, On, Zero
from ozone.server.request_values import (
    Content,
    Count,
    LogitBias,
    Prompts,
    Strings,
    TokenIds,
    Tools,
    few_messages,
)
from ozone.server.unsupported_fields import refuse_unsupported

_OF_PARTS = frozenset({"type", "text"})


class _Fields(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    def note_ignored(self, where: str = "") -> None:
        """Leave a trace of fields that nothing reads."""
        note_ignored(self.model_extra, type(self).model_fields, where)


class RequestBody(_Fields):
    """A whole body."""

    _num_bytes: int = PrivateAttr(0)

    def refuse_unsupported(self) -> None:
        """Raise RequestError for a field that asks for what Ozone does not do."""
        refuse_unsupported(self.model_extra or {})

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
    max_tokens: Integer | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    seed: Integer | None = None
    stop: Strings = []
    logit_bias: LogitBias = None
    user: str | None = None

    top_k: Integer | None = None
    min_p: Number | None = None
    repetition_penalty: Number | None = None
    min_tokens: Zero = 0
    ignore_eos: Off = False
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: Off = False
    skip_special_tokens: On = True
    prompt_logprobs: Integer | None = None
    allowed_token_ids: TokenIds | None = None
    bad_words: Strings = []
    priority: Zero = 0
    cache_salt: str | None = None
    return_token_ids: Off = False
    return_tokens_as_token_ids: Boolean | None = None
    request_id: str | None = None

    # llama.cpp's name of repetition_penalty.
    repeat_penalty: Annotated[Number, Field(ge=1e-3, le=1e3)] | None = None
    length_penalty: Number | None = Field(None, description="without effect, as in vLLM without beam search")
    logprob_token_ids: Annotated[TokenIds, Field(max_length=MAX_LOGPROB_TOKEN_IDS)] | None = None
    truncate_prompt_tokens: Annotated[Integer, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    stream_interval: Annotated[Integer, Field(ge=1)] | None = None

    def note_ignored(self, where: str = "") -> None:
        super().note_ignored(where)
        if self.length_penalty not in (None, 1):
            note_ignored({"length_penalty": self.length_penalty}, ())
        if self.stream_options is not None:
            self.stream_options.note_ignored("stream_options.")

    def check(self) -> None:
        """Raise RequestError for what types alone do not show."""
        self.refuse_unsupported()
        if self.repeat_penalty is not None:
            if self.repetition_penalty not in (None, self.repeat_penalty):
                raise RequestError("repeat_penalty contradicts repetition_penalty", param="repeat_penalty")
            self.repetition_penalty = self.repeat_penalty
        if self.stream_options is not None and self.stream_options.model_fields_set and not self.stream:
            raise RequestError("stream_options needs stream: true", param="stream_options")
        if self.stream and self.prompt_logprobs == 0:
            self.prompt_logprobs = None  # As in vLLM.
        if self.stream and self.prompt_logprobs is not None:
            raise RequestError("prompt_logprobs does not go with stream: true", param="prompt_logprobs")


class CompletionRequest(GenerationRequest):
    """The body of `/v1/completions`."""

    prompt: Prompts
    echo: Off = False
    logprobs: Integer | None = None
    best_of: Integer | None = None
    add_special_tokens: On = True

    def check(self) -> None:
        super().check()
        if self.best_of is not None and self.best_of != self.n:
            raise RequestError("best_of is not supported unless it equals n", param="best_of")
        if self.logprob_token_ids and self.logprobs is None:
            raise RequestError("logprob_token_ids needs logprobs", param="logprob_token_ids")


class ChatMessage(_Fields):
    """One message; fields besides these reach the chat template as they are."""

    role: str
    content: Content = None

    def note_ignored(self, where: str = "") -> None:
        extra = self.model_extra
        if extra and not extra.keys() <= OF_MESSAGES:
            unknown = {name: extra[name] for name in extra.keys() - OF_MESSAGES}
            note_ignored(unknown, {*type(self).model_fields, *OF_MESSAGES}, where)
        for part in self.content if isinstance(self.content, list) else ():
            if isinstance(part, dict) and not part.keys() <= _OF_PARTS:
                note_ignored(
                    {name: part[name] for name in part.keys() - _OF_PARTS}, _OF_PARTS, f"{where}content."
                )

    def text(self) -> str:
        """The content as plain text."""
        if not isinstance(self.content, list):
            return self.content or ""
        return "\n".join(part if isinstance(part, str) else part["text"] for part in self.content)


class Conversation(RequestBody):
    """What is rendered with the chat template."""

    messages: Annotated[list[ChatMessage], BeforeValidator(few_messages)] = Field(min_length=1)
    add_generation_prompt: On = True
    continue_final_message: Off = False
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: Off = False
    tools: Tools = None

    def note_ignored(self, where: str = "") -> None:
        super().note_ignored(where)
        for message in self.messages:
            message.note_ignored("messages.")

    def template_kwargs(self) -> dict[str, Any]:
        """What the template gets besides the conversation."""
        return self.chat_template_kwargs or {}

    def unread_by(self, template: str) -> dict[str, Any]:
        """Fields that ask a template for something, and that this one, its source, does not mention."""
        return {"tools": self.tools} if self.tools and "tools" not in template else {}


class ChatCompletionRequest(GenerationRequest, Conversation):
    """The body of `/v1/chat/completions`."""

    max_completion_tokens: Integer | None = None
    logprobs: Off = False
    top_logprobs: Integer | None = None
    return_prompt_text: Off = False
    tool_choice: Any = Field(None, description="none: the tools are shown to the model and never called")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None

    def template_kwargs(self) -> dict[str, Any]:
        kwargs = super().template_kwargs()
        if self.reasoning_effort is None:
            return kwargs
        thinks = self.reasoning_effort != "none"
        return {"reasoning_effort": self.reasoning_effort, "enable_thinking": thinks, **kwargs}

    def unread_by(self, template: str) -> dict[str, Any]:
        unread = super().unread_by(template)
        if "reasoning_effort" not in template and "enable_thinking" not in template:
            unread["reasoning_effort"] = self.reasoning_effort
        return unread

    def check(self) -> None:
        super().check()
        if self.tool_choice not in (None, "none", "auto") or (self.tools and self.tool_choice != "none"):
            field = "tools" if self.tools else "tool_choice"
            raise RequestError(
                f"Tool calling is not supported ('{field}'); with tool_choice: \"none\" the model sees tools",
                param=field,
            )
        if self.logprob_token_ids and not self.logprobs:
            raise RequestError("logprob_token_ids needs logprobs: true", param="logprob_token_ids")
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")


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
