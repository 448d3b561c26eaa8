"""The shapes of answers, as the schema at `/openapi.json` shows them. The endpoints write plain JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class UsageAnswer(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None


class CompletionLogprobsAnswer(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobsAnswer | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None
    prompt_token_ids: list[int] | None
    prompt_logprobs: list[dict[str, Any] | None] | None


class CompletionAnswer(BaseModel):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: UsageAnswer
    service_tier: str | None
    kv_transfer_params: dict[str, Any] | None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobsAnswer(BaseModel):
    content: list[ChatTokenLogprob]
    refusal: str | None


class ChatMessageAnswer(BaseModel):
    role: str
    content: str
    refusal: str | None
    annotations: None
    audio: None
    function_call: None
    reasoning: str | None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessageAnswer
    logprobs: ChatLogprobsAnswer | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None


class ChatCompletionAnswer(BaseModel):
    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageAnswer
    service_tier: str | None
    kv_transfer_params: dict[str, Any] | None
    prompt_token_ids: list[int] | None
    prompt_text: str | None
    prompt_logprobs: list[dict[str, Any] | None] | None


class ModelCard(BaseModel):
    id: str
    object: str
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(BaseModel):
    object: str
    data: list[ModelCard]


class TokenizeAnswer(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(BaseModel):
    prompt: str


class VersionAnswer(BaseModel):
    version: str


class LoadAnswer(BaseModel):
    server_load: int


class ResetAnswer(BaseModel):
    success: bool
    message: str


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What the schema says of a path's errors."""
    return {status: {"model": ErrorAnswer} for status in statuses}
