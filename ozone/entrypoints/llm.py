"""`LLM`: a model in this process, under vLLM's names, so that a script moves over by its import line."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ozone.config.args import EngineArgs
from ozone.engine.chat_template import ChatTemplate
from ozone.engine.outputs import EngineStats, RequestOutput
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.assemble import LoadedModel, load
from ozone.entrypoints.batch import BatchRequest, run_batch
from ozone.entrypoints.prompts import EncodedPrompt, Message, Prompt, encode_prompts, render_conversation
from ozone.errors import RequestError

if TYPE_CHECKING:
    from ozone.config.schema import OzoneConfig
    from ozone.engine.tokenizer import Tokenizer

# Arguments of vLLM's `generate` and `chat` that Ozone has not, with the values that ask for nothing.
_MISSING_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "guided_options_request": (None,),
    "lora_request": (None,),
    "mm_processor_kwargs": (None, {}),
    "prompt_adapter_request": (None,),
    "prompt_token_ids": (None,),
    "reasoning_effort": (None,),
    "tokenization_kwargs": (None, {}),
}


class LLM:
    """A loaded model that answers prompts in batches.

    Args:
        model: a local directory, a ``.gguf`` file, a hub id, or None for the embedded default.
        **kwargs: engine arguments under the names of the flags, for example ``optimization_level=2``,
            ``compilation_config={"cudagraph_mode": "FULL"}``, ``max_model_len=4096``, ``dtype="float32"``.

    Raises:
        ConfigError: an argument that Ozone does not know, or a value it does not accept.
        ModelFileError: the model is missing, damaged or of a kind that Ozone does not run.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        self._loaded: LoadedModel = load(EngineArgs.from_kwargs(model=model, **kwargs))
        # The engine's thread keeps the engine alive, so an LLM that is dropped has to stop it.
        self._stop = weakref.finalize(self, self._loaded.engine.shutdown)

    def __repr__(self) -> str:
        config = self.config
        return f"<LLM {config.model.model!r} at -O{config.optimization_level}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an LLM cannot be pickled or copied: it holds a model in memory and a thread; load one in each "
            "process"
        )

    @property
    def config(self) -> OzoneConfig:
        """The resolved configuration: every value, who set it and why."""
        return self._loaded.config

    def startup_report(self) -> dict[str, Any]:
        """Seconds of every phase of the start."""
        return self._loaded.startup.report()

    def engine_stats(self) -> EngineStats:
        """Requests, blocks and counters of the engine, now."""
        return self._loaded.engine.stats()

    def get_tokenizer(self) -> Tokenizer:
        return self._loaded.tokenizer

    def get_default_sampling_params(self) -> SamplingParams:
        """What `generate` uses without sampling parameters: the generation config's values."""
        return self._loaded.default_sampling_params()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool | Callable[..., Any] = True,
        priority: Sequence[int] | None = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """Complete every prompt.

        Args:
            prompts: a text, ``{"prompt": text}``, ``{"prompt_token_ids": ids}``, a list of token ids, or a
                list of these.
            sampling_params: one for all prompts, or one for each.
            use_tqdm: show progress; a callable is used in place of ``tqdm``.
            priority: one number for each prompt; smaller goes first under ``scheduling_policy="priority"``.
            **others: arguments of vLLM's that Ozone has not, as long as they ask for nothing.

        Returns: one `RequestOutput` a prompt, in the order of the prompts.

        Raises:
            RequestError: a prompt or a parameter that cannot be served; nothing is generated then.
            GenerationError: the engine failed on a request; its `outputs` hold all others.
        """
        _refuse("generate", others)
        return self._run(encode_prompts(prompts, self._loaded.tokenizer), sampling_params, priority, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | Callable[..., Any] = True,
        *,
        chat_template: str | None = None,
        chat_template_content_format: str | None = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: list[dict[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> list[RequestOutput]:
        """Answer a conversation, or each of several, after rendering it with the chat template.

        Args:
            messages: ``[{"role": ..., "content": ...}, ...]``, or a list of such lists.
            chat_template: a template to use in place of the model's own.
            chat_template_content_format: what the template gets as a message's content: "string", "openai"
                (a list of parts), or "auto", as its source looks.
            continue_final_message: go on with the last message instead of answering it.
            tools: JSON schemas of functions, for templates that show them to the model.
            chat_template_kwargs: extra variables for the template.

        Returns, raises: as `generate`.
        """
        _refuse("chat", others)
        if not messages:
            raise RequestError("messages is empty; give at least one message", param="messages")
        template = self._template(chat_template).with_content_format(chat_template_content_format or "auto")
        conversations: list[Any] = (
            list(messages)
            if isinstance(messages, Sequence) and not isinstance(messages[0], Mapping)
            else [messages]
        )
        prompts = [
            render_conversation(
                template,
                conversation,
                self._loaded.tokenizer,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                variables=dict(chat_template_kwargs or {}),
            )
            for conversation in conversations
        ]
        return self._run(prompts, sampling_params, None, use_tqdm)

    def shutdown(self) -> None:
        """Stop the engine's thread; requests still running end with ``finish_reason`` "abort"."""
        self._stop()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _template(self, source: str | None) -> ChatTemplate:
        if source is not None:
            return ChatTemplate(source, **self._loaded.tokenizer.special_tokens)
        if self._loaded.chat_template is None:
            raise RequestError("the model has no chat template; give chat_template", param="chat_template")
        return self._loaded.chat_template

    def _run(
        self,
        prompts: list[EncodedPrompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        priority: Sequence[int] | None,
        use_tqdm: bool | Callable[..., Any],
    ) -> list[RequestOutput]:
        params = self._params_for(len(prompts), sampling_params)
        priorities = [0] * len(prompts) if priority is None else list(priority)
        if len(priorities) != len(prompts):
            raise RequestError(f"priority has {len(priorities)} entries for {len(prompts)} prompts")
        requests = [BatchRequest(*row) for row in zip(prompts, params, priorities, strict=True)]
        return run_batch(self._loaded.engine, requests, use_tqdm)

    def _params_for(
        self, count: int, given: SamplingParams | Sequence[SamplingParams] | None
    ) -> list[SamplingParams]:
        if given is None:
            given = self.get_default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * count
        if not isinstance(given, Sequence) or not all(isinstance(one, SamplingParams) for one in given):
            raise RequestError(
                "sampling_params must be a SamplingParams or a list of them: "
                f"SamplingParams(...), not {type(given).__name__}"
            )
        if len(given) != count:
            raise RequestError(f"sampling_params has {len(given)} entries for {count} prompts")
        return list(given)


def _refuse(method: str, others: Mapping[str, Any]) -> None:
    """Answer arguments that only vLLM has, and ones that nobody has."""
    for name, value in others.items():
        if name not in _MISSING_ARGUMENTS:
            raise RequestError(f"LLM.{method} has no argument {name}", param=name)
        if value not in _MISSING_ARGUMENTS[name]:
            raise RequestError(f"vLLM's LLM.{method} has the argument {name}; Ozone does not", param=name)
