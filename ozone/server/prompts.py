"""From texts and conversations to token ids, short ones at once and long ones beside the event loop."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from ozone.engine.chat_template import check_variables, cut_after
from ozone.errors import RequestError
from ozone.server.context import ServerContext
from ozone.server.ignored_fields import note_ignored
from ozone.server.requests import ChatCompletionRequest, CompletionRequest, Conversation
from ozone.server.truncation import Truncation

# A text this many times as long as the context is first counted by parts of that length.
_CHARACTERS_PER_TOKEN = 16
_MOST_KWARGS_LOOKED_FOR = 64


class RenderedPrompt(NamedTuple):
    """What the chat template made of a conversation; the tokens may be cut."""

    text: str
    token_ids: list[int]


async def encode_text(context: ServerContext, text: str, add_special_tokens: bool) -> list[int]:
    """The token ids of a text, however long."""
    tokenizer = context.state.tokenizer
    return await context.call(len(text), lambda: tokenizer.encode(text, add_special_tokens))


async def encode_prompts(
    context: ServerContext, body: CompletionRequest, truncation: Truncation | None = None
) -> list[list[int]]:
    """The token ids of each prompt. Raises RequestError for a text much longer than the context."""

    def encode() -> list[list[int]]:
        return [
            _encode_bounded(context, prompt, body.add_special_tokens, "prompt", truncation)
            if isinstance(prompt, str)
            else truncation.cut(prompt)
            if truncation
            else prompt
            for prompt in body.prompt
        ]

    return await context.call(body.num_bytes, encode)


def _encode_bounded(
    context: ServerContext,
    text: str,
    add_special_tokens: bool,
    param: str,
    truncation: Truncation | None,
) -> list[int]:
    """Encode without spending seconds on megabytes that cannot fit anyway."""
    tokenizer, limit = context.state.tokenizer, context.state.max_model_len
    if truncation is not None:
        return truncation.encode(tokenizer, text, add_special_tokens)
    size = limit * _CHARACTERS_PER_TOKEN
    count = 0
    for start in range(0, len(text) if len(text) > size else 0, size):
        count += len(tokenizer.encode(text[start : start + size], False))
        if count > 2 * limit:
            raise RequestError(
                f"The prompt has more than {count} tokens; the context holds {limit}", param=param
            )
    return tokenizer.encode(text, add_special_tokens)


async def encode_conversation(
    context: ServerContext, conversation: Conversation, truncation: Truncation | None = None
) -> RenderedPrompt:
    """A conversation as text and as token ids.

    Raises RequestError where the model has no template, where its template refuses the conversation, and
    for one much longer than the context.
    """
    template = context.chat_template
    if template is None:
        raise RequestError("The model has no chat template: start the server with --chat-template")
    if conversation.continue_final_message and conversation.add_generation_prompt:
        raise RequestError(
            "continue_final_message needs add_generation_prompt: false", param="continue_final_message"
        )

    settings = context.state.settings
    # A chat with tools has tool_choice "none": another one is refused.
    hides_tools = settings.exclude_tools_when_tool_choice_none and isinstance(
        conversation, ChatCompletionRequest
    )

    def render_and_encode() -> RenderedPrompt:
        defaults = settings.default_chat_template_kwargs or {}
        kwargs = {**defaults, **conversation.template_kwargs()}
        check_variables(kwargs)
        _note_unread(conversation, template.source)
        messages = [message.model_dump() for message in conversation.messages]
        text = template.render(
            messages,
            add_generation_prompt=conversation.add_generation_prompt,
            tools=None if hides_tools else conversation.tools,
            **kwargs,
        )
        if conversation.continue_final_message:
            text = cut_after(text, conversation.messages[-1].text().strip())
        special = conversation.add_special_tokens
        return RenderedPrompt(text, _encode_bounded(context, text, special, "messages", truncation))

    return await context.call(conversation.num_bytes, render_and_encode)


def _note_unread(conversation: Conversation, source: str) -> None:
    """Leave a trace of what is meant for the template and does not occur in it."""
    some = itertools.islice(conversation.chat_template_kwargs or {}, _MOST_KWARGS_LOOKED_FOR)
    note_ignored({name: True for name in some if name not in source}, (), "chat_template_kwargs.")
    note_ignored(conversation.unread_by(source), ())
