"""Chat templates: a conversation becomes the prompt that the model was trained on.

Templates are Jinja, in the dialect that Hugging Face's tokenizers speak. jinja2 is imported when the
first template is checked or rendered.
"""

from __future__ import annotations

import copy
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ozone.errors import ConfigError, ModelFileError, RequestError, clipped, shown

if TYPE_CHECKING:
    from jinja2 import nodes

MAX_PROMPT_CHARACTERS = 8 << 20
MAX_TEMPLATE_CHARACTERS = 1 << 20

# How a template takes a message's content: as a string, as a list of parts, or as either.
ContentFormat = Literal["string", "parts", "either"]

# What users call the first two; "auto" is as the template's source looks.
CONTENT_FORMATS: Mapping[str, ContentFormat | None] = {"auto": None, "string": "string", "openai": "parts"}

# What `ChatTemplate.render` gives by name, so that a request's own variables must not name it.
RESERVED_VARIABLES = frozenset(
    {"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}
)


def check_variables(variables: Mapping[str, Any]) -> None:
    """`RequestError` where ``chat_template_kwargs`` names what the template is given anyway."""
    if reserved := RESERVED_VARIABLES.intersection(variables):
        raise RequestError(f"chat_template_kwargs must not set {min(reserved)}", param="chat_template_kwargs")


class ChatTemplate:
    """A chat template, compiled on first use. Thread-safe."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        **special_tokens: str | None,
    ) -> None:
        """`special_tokens` are further ones that the template may name: unk_token, pad_token, ..."""
        self.source = source
        named = {"bos_token": bos_token, "eos_token": eos_token, **special_tokens}
        self._special_tokens = {name: token or "" for name, token in named.items()}
        self._compiled: _Compiled | None = None
        self._content_format: ContentFormat | None = None

    def with_content_format(self, name: str) -> ChatTemplate:
        """A copy that gets contents as a string or as OpenAI's parts, see `CONTENT_FORMATS`."""
        if name not in CONTENT_FORMATS:
            raise RequestError(
                f"the content format must be one of {', '.join(CONTENT_FORMATS)}, not {shown(name)}",
                param="chat_template_content_format",
            )
        changed = copy.copy(self)
        changed._content_format = CONTENT_FORMATS[name]
        return changed

    def validate(self) -> None:
        """Compile the template; ModelFileError, with the line, where it is not valid."""
        if self._compiled is None:
            self._compiled = _Compiled(self.source)

    def render(
        self,
        /,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt for a conversation.

        Args:
            messages: each with a ``role``; ``content`` is a string or OpenAI's list of text parts.
            add_generation_prompt: end with the beginning of the assistant's answer.
            tools: JSON schemas of functions, for templates that know them.
            kwargs: further variables for the template (``enable_thinking``, ``documents``, ...).
        Errors: RequestError where the conversation is malformed, the template refuses or cannot render it.
        """
        self.validate()
        assert self._compiled is not None
        form = self._content_format or self._compiled.content_format
        conversation = [_template_message(message, n, form) for n, message in enumerate(messages)]
        variables = {
            **self._special_tokens,
            **kwargs,
            "messages": conversation,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        return self._compiled.render(variables)


def cut_after(text: str, final_message: str) -> str:
    """The rendered text up to the end of its last message, without what the template closes it with."""
    start = text.rfind(final_message)
    if not final_message or start < 0:
        raise RequestError(
            "continue_final_message: the template does not show the last message as it is", param="messages"
        )
    return text[: start + len(final_message)]


def read_chat_template(argument: str) -> str:
    """The template that a ``--chat-template`` argument names or is; ConfigError where it is neither.

    An argument with a Jinja tag in it is a template, anything else is the path of a file.
    """
    if "{{" in argument or "{%" in argument or "{#" in argument:
        return argument
    path = Path(argument).expanduser()
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"--chat-template {path}: not a regular file")
            content = file.read(MAX_TEMPLATE_CHARACTERS + 1)
        if len(content) > MAX_TEMPLATE_CHARACTERS:
            raise ConfigError(f"--chat-template {path}: larger than {MAX_TEMPLATE_CHARACTERS >> 20} MiB")
        return content.decode("utf-8")
    except ConfigError:
        raise
    except UnicodeDecodeError:
        raise ConfigError(f"--chat-template {path}: the file is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"--chat-template {argument[:200]!r} is neither a Jinja template nor a readable file ({reason})"
        ) from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer is no reason to hang


class _Compiled:
    """A compiled template and how it reads a message's content."""

    def __init__(self, source: str) -> None:
        from jinja2.exceptions import TemplateError, TemplateSyntaxError

        from ozone.engine.chat_template_sandbox import ChatTemplateEnvironment

        if len(source) > MAX_TEMPLATE_CHARACTERS:
            raise ModelFileError(f"the chat template has more than {MAX_TEMPLATE_CHARACTERS} characters")
        self._environment = ChatTemplateEnvironment()
        self._environment.budget.restart()
        try:
            tree = self._environment.parse(source)
            self.content_format = _content_format(tree)
            self._template = self._environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise ModelFileError(
                f"the chat template is not valid Jinja: line {error.lineno}: {clipped(str(error.message))}"
            ) from None
        except (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError) as error:
            raise ModelFileError(f"the chat template cannot be compiled: {clipped(str(error))}") from None

    def render(self, variables: dict[str, Any]) -> str:
        from ozone.engine.chat_template_sandbox import TemplateRefusalError

        pieces: list[str] = []
        length = 0
        self._environment.budget.restart()
        try:
            for piece in self._template.generate(variables):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_PROMPT_CHARACTERS:
                    break
        except TemplateRefusalError as refusal:
            raise RequestError(
                f"the chat template says: {clipped(str(refusal), 1000)}", param="messages"
            ) from None
        except Exception as error:  # whatever a template can do wrong with these messages
            what = clipped(str(error)) or type(error).__name__
            raise RequestError(
                f"the chat template cannot render these messages: {what}", param="messages"
            ) from error
        if length > MAX_PROMPT_CHARACTERS:
            raise RequestError(
                f"the conversation is longer than {MAX_PROMPT_CHARACTERS} characters once rendered",
                param="messages",
            )
        return "".join(pieces)


def _content_format(tree: nodes.Template) -> ContentFormat:
    """Whether a template goes through a message's content part by part, or takes it for a string."""
    from jinja2 import nodes

    def is_content(node: nodes.Node | None) -> bool:
        while isinstance(node, nodes.Filter):
            node = node.node
        match node:
            case nodes.Name(name=name):
                return name in holding_content
            case nodes.Getattr(attr="content"):
                return True
            case nodes.Getitem(arg=nodes.Const(value="content")):
                return True
        return False

    holding_content = {"content"}
    for assignment in tree.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and is_content(assignment.node):
            holding_content.add(assignment.target.name)
    if not any(is_content(loop.iter) for loop in tree.find_all(nodes.For)):
        return "string"
    return "either" if any(test.name == "string" for test in tree.find_all(nodes.Test)) else "parts"


def _template_message(message: Mapping[str, Any], position: int, form: ContentFormat) -> dict[str, Any]:
    """A message as templates expect it: plain text content, or parts where the template reads parts."""
    where = f"messages[{position}]"
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f"{where} must be an object with a role", param="messages")
    plain = dict(message)
    content = message.get("content")
    if content is None:
        plain["content"] = ""
    elif isinstance(content, str):
        plain["content"] = [{"type": "text", "text": content}] if form == "parts" else content
    else:
        texts = [_part_text(part, f"{where}.content[{n}]") for n, part in enumerate(_parts(content, where))]
        parts = [{"type": "text", "text": text} for text in texts]
        plain["content"] = "\n".join(texts) if form == "string" else parts
    if isinstance(calls := message.get("tool_calls"), Sequence) and not isinstance(calls, str):
        plain["tool_calls"] = [
            _template_tool_call(call, f"{where}.tool_calls[{n}]") for n, call in enumerate(calls)
        ]
    return plain


def _parts(content: Any, where: str) -> Sequence[Any]:
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise RequestError(f"{where}.content must be a string or a list of parts", param="messages")
    return content


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise RequestError(f"{where} must be an object with a type", param="messages")
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        raise RequestError(
            f"{where}: a part of type {shown(kind)} is not supported, only 'text'", param="messages"
        )
    if not isinstance(text, str):
        raise RequestError(f"{where}.text must be a string", param="messages")
    return text


def _template_tool_call(call: Any, where: str) -> Any:
    """A tool call with its arguments as an object: OpenAI's clients send them as a string of JSON."""
    if not isinstance(call, Mapping) or not isinstance(function := call.get("function"), Mapping):
        return call
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        parsed = json.loads(arguments or "{}")
    except ValueError:
        raise RequestError(f"{where}.function.arguments is not valid JSON", param="messages") from None
    return {**call, "function": {**function, "arguments": parsed}}
