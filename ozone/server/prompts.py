"""From texts and conversations to token ids, short ones at once and long ones beside the event loop."""

from __future__ import annotations

from collections.abc import Sequence

from ozone.engine.chat_template import check_variables, cut_after
from ozone.errors import RequestError
from ozone.server.context import ServerContext
from ozone.server.requests import Conversation

# A text this many times as long as the context is first tried by its beginning.
_CHARACTERS_PER_TOKEN = 16


async def encode_text(context: ServerContext, text: str, add_special_tokens: bool) -> list[int]:
    """The token ids of a text, however long."""
    tokenizer = context.state.tokenizer
    return await context.call(len(text), lambda: tokenizer.encode(text, add_special_tokens))


async def encode_prompts(
    context: ServerContext, prompts: Sequence[str | list[int]], add_special_tokens: bool
) -> list[list[int]]:
    """The token ids of each prompt. Raises RequestError for a text much longer than the context."""

    def encode() -> list[list[int]]:
        return [
            _encode_bounded(context, prompt, add_special_tokens, "prompt")
            if isinstance(prompt, str)
            else prompt
            for prompt in prompts
        ]

    return await context.call(sum(len(prompt) for prompt in prompts if isinstance(prompt, str)), encode)


def _encode_bounded(context: ServerContext, text: str, add_special_tokens: bool, param: str) -> list[int]:
    """Encode without spending seconds on megabytes that cannot fit anyway."""
    tokenizer, limit = context.state.tokenizer, context.state.max_model_len
    beginning = text[: limit * _CHARACTERS_PER_TOKEN]
    if len(beginning) < len(text) and (count := len(tokenizer.encode(beginning, False))) > 2 * limit:
        raise RequestError(f"The prompt has more than {count} tokens; the context holds {limit}", param=param)
    return tokenizer.encode(text, add_special_tokens)


async def encode_conversation(context: ServerContext, conversation: Conversation) -> list[int]:
    """The token ids of a rendered conversation.

    Raises RequestError where the model has no template, where its template refuses the conversation, and
    for one much longer than the context.
    """
    template = context.state.chat_template
    if template is None:
        raise RequestError("The model has no chat template: start the server with --chat-template")
    if conversation.continue_final_message and conversation.add_generation_prompt:
        raise RequestError(
            "continue_final_message needs add_generation_prompt: false", param="continue_final_message"
        )
    kwargs = conversation.chat_template_kwargs or {}
    check_variables(kwargs)
    messages = [message.model_dump() for message in conversation.messages]
    texts = [message.text() for message in conversation.messages]

    def render_and_encode() -> list[int]:
        text = template.render(messages, add_generation_prompt=conversation.add_generation_prompt, **kwargs)
        if conversation.continue_final_message:
            text = cut_after(text, texts[-1].strip())
        return _encode_bounded(context, text, conversation.add_special_tokens, "messages")

    return await context.call(sum(map(len, texts)), render_and_encode)
