"""From texts and conversations to token ids, short ones at once and long ones beside the event loop."""

from __future__ import annotations

from ozone.errors import RequestError
from ozone.server.context import ServerContext
from ozone.server.requests import Conversation

# What `ChatTemplate.render` is given by name, so that chat_template_kwargs must not name it.
_RESERVED = {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}


async def encode_text(context: ServerContext, text: str, add_special_tokens: bool) -> list[int]:
    """The token ids of a text."""
    tokenizer = context.state.tokenizer
    return await context.call(len(text), lambda: tokenizer.encode(text, add_special_tokens))


async def encode_conversation(context: ServerContext, conversation: Conversation) -> list[int]:
    """The token ids of a rendered conversation.

    Raises RequestError where the model has no template or its template refuses the conversation.
    """
    template = context.state.chat_template
    if template is None:
        raise RequestError("The model has no chat template: start the server with --chat-template")
    if conversation.continue_final_message and conversation.add_generation_prompt:
        raise RequestError(
            "continue_final_message needs add_generation_prompt: false", param="continue_final_message"
        )
    kwargs = conversation.chat_template_kwargs or {}
    if reserved := _RESERVED.intersection(kwargs):
        raise RequestError(
            f"chat_template_kwargs must not set {sorted(reserved)[0]}", param="chat_template_kwargs"
        )
    messages = [message.model_dump() for message in conversation.messages]
    texts = [message.text() for message in conversation.messages]

    def render_and_encode() -> list[int]:
        text = template.render(messages, add_generation_prompt=conversation.add_generation_prompt, **kwargs)
        if conversation.continue_final_message:
            text = _cut_after(text, texts[-1].strip())
        return context.state.tokenizer.encode(text, conversation.add_special_tokens)

    return await context.call(sum(map(len, texts)), render_and_encode)


def _cut_after(text: str, final_message: str) -> str:
    """The rendered text up to the end of its last message, without what the template closes it with."""
    start = text.rfind(final_message)
    if not final_message or start < 0:
        raise RequestError(
            "continue_final_message: the template does not show the last message as it is", param="messages"
        )
    return text[: start + len(final_message)]
