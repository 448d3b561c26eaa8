"""What a Python caller may pass as prompts and conversations, brought to text and token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ozone.engine.chat_template import check_variables, cut_after
from ozone.errors import RequestError

if TYPE_CHECKING:
    from ozone.engine.chat_template import ChatTemplate
    from ozone.engine.tokenizer import Tokenizer

Prompt = str | Mapping[str, Any] | Sequence[int]
Message = Mapping[str, Any]

_FORMS = 'a text, {"prompt": text}, {"prompt_token_ids": ids}, or a list of token ids'


class EncodedPrompt(NamedTuple):
    """A prompt as the engine takes it; `text` is None where the caller gave token ids alone.

    Prompts with different `cache_salt` share nothing in the prefix cache.
    """

    text: str | None
    token_ids: list[int]
    cache_salt: str | None = None


def encode_prompts(prompts: Prompt | Sequence[Prompt], tokenizer: Tokenizer) -> list[EncodedPrompt]:
    """One prompt or many; a flat list of integers is one prompt of token ids.

    Raises: `RequestError` for anything that is not a prompt.
    """
    if isinstance(prompts, str | Mapping):
        return [_encode(prompts, tokenizer)]
    items = _as_list(prompts, "prompts")
    if items and all(_is_token_id(item) for item in items):
        return [_encode(items, tokenizer)]
    return [_encode(item, tokenizer) for item in items]


def render_conversation(
    template: ChatTemplate,
    conversation: object,
    tokenizer: Tokenizer,
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
    tools: list[dict[str, Any]] | None,
    variables: Mapping[str, Any],
) -> EncodedPrompt:
    """The prompt of one conversation.

    Raises: `RequestError` where it is malformed or the template refuses it.
    """
    if not isinstance(conversation, Sequence) or isinstance(conversation, str | bytes):
        raise RequestError(
            f"a conversation must be a list of messages, not {type(conversation).__name__}", param="messages"
        )
    messages = list(conversation)
    if not messages:
        raise RequestError("a conversation is empty; give at least one message", param="messages")
    for message in messages:
        if not isinstance(message, Mapping):
            raise RequestError(
                f'a message must be {{"role": ..., "content": ...}}, not {type(message).__name__}',
                param="messages",
            )
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "continue_final_message needs add_generation_prompt=False", param="continue_final_message"
        )
    check_variables(variables)
    text = template.render(
        [dict(message) for message in messages],
        add_generation_prompt=add_generation_prompt,
        tools=tools,
        **variables,
    )
    if continue_final_message:
        text = cut_after(text, str(messages[-1].get("content", "")).strip())
    return EncodedPrompt(text, tokenizer.encode(text, add_special_tokens=False))


def _encode(prompt: object, tokenizer: Tokenizer) -> EncodedPrompt:
    if isinstance(prompt, str):
        return EncodedPrompt(prompt, tokenizer.encode(prompt))
    if isinstance(prompt, Mapping):
        text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        if ids is None and not isinstance(text, str):
            raise RequestError('a prompt mapping needs "prompt" (text) or "prompt_token_ids"', param="prompt")
        salt = prompt.get("cache_salt")
        if salt is not None and not isinstance(salt, str):
            raise RequestError(f"cache_salt must be a text, not {type(salt).__name__}", param="cache_salt")
        token_ids = tokenizer.encode(str(text)) if ids is None else _token_ids(ids)
        return EncodedPrompt(text, token_ids, salt)
    return EncodedPrompt(None, _token_ids(prompt))


def _token_ids(ids: object) -> list[int]:
    items = _as_list(ids, "a prompt")
    for item in items:
        if not _is_token_id(item):
            raise RequestError(f"a prompt is {_FORMS}, not a list with {item!r:.40}", param="prompt")
    return items


def _is_token_id(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _as_list(value: object, name: str) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RequestError(f"{name} must be {_FORMS}, or a list of these, not {type(value).__name__}")
    return list(value)
