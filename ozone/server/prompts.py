"""From texts and conversations to token ids, short ones at once and long ones beside the event loop."""

from __future__ import annotations

from ozone.engine.chat_template import check_variables, cut_after
from ozone.errors import RequestError
from ozone.server.context import ServerContext
from ozone.server.requests import CompletionRequest, Conversation

# A text this many times as long as the context is first counted by parts of that length.
_CHARACTERS_PER_TOKEN = 16


async def encode_text(context: ServerContext, text: str, add_special_tokens: bool) -> list[int]:
    """The token ids of a text, however long."""
    tokenizer = context.state.tokenizer
    return await context.call(len(text), lambda: tokenizer.encode(text, add_special_tokens))


async def encode_prompts(context: ServerContext, body: CompletionRequest) -> list[list[int]]:
    """The token ids of each prompt. Raises RequestError for a text much longer than the context."""

    def encode() -> list[list[int]]:
        return [
            _encode_bounded(context, prompt, body.add_special_tokens, "prompt")
            if isinstance(prompt, str)
            else prompt
            for prompt in body.prompt
        ]

    return await context.call(body.num_bytes, encode)


def _encode_bounded(context: ServerContext, text: str, add_special_tokens: bool, param: str) -> list[int]:
    """Encode without spending seconds on megabytes that cannot fit anyway."""
    tokenizer, limit = context.state.tokenizer, context.state.max_model_len
    size = limit * _CHARACTERS_PER_TOKEN
    count = 0
    for start in range(0, len(text) if len(text) > size else 0, size):
        count += len(tokenizer.encode(text[start : start + size], False))
        if count > 2 * limit:
            raise RequestError(
                f"The prompt has more than {count} tokens; the context holds {limit}", param=param
            )
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

    def render_and_encode() -> list[int]:
        kwargs = conversation.chat_template_kwargs or {}
        check_variables(kwargs)
        messages = [message.model_dump() for message in conversation.messages]
        text = template.render(messages, add_generation_prompt=conversation.add_generation_prompt, **kwargs)
        if conversation.continue_final_message:
            text = cut_after(text, conversation.messages[-1].text().strip())
        return _encode_bounded(context, text, conversation.add_special_tokens, "messages")

    return await context.call(conversation.num_bytes, render_and_encode)
