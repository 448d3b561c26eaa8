"""`LLM`: a model in this process, under vLLM's names, so that a script moves over by its import line."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ozone.config.args import EngineArgs
from ozone.engine.chat_template import ChatTemplate, check_variables
from ozone.engine.collector import OutputCollector
from ozone.engine.outputs import EngineStats, RequestDelta, RequestOutput
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.assemble import LoadedModel, load
from ozone.entrypoints.streaming import new_request_id
from ozone.errors import QueueFullError, RequestError

if TYPE_CHECKING:
    from ozone.config.schema import OzoneConfig
    from ozone.engine.tokenizer import Tokenizer

Prompt = str | Mapping[str, Any] | Sequence[int]
Message = Mapping[str, Any]


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

    def __init__(self, model: str | None = None, **kwargs: Any) -> None:
        self._loaded: LoadedModel = load(EngineArgs.from_kwargs(model=model, **kwargs))

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
    ) -> list[RequestOutput]:
        """Complete every prompt.

        Args:
            prompts: a text, ``{"prompt": text}``, ``{"prompt_token_ids": ids}``, or a list of these.
            sampling_params: one for all prompts, or one for each.
            use_tqdm: show progress; a callable is used in place of ``tqdm``.
            priority: one number for each prompt; smaller goes first under ``scheduling_policy="priority"``.

        Returns: one `RequestOutput` a prompt, in the order of the prompts.

        Raises: `RequestError` for a prompt or a parameter that cannot be served; nothing is generated then.
        """
        requests = [self._parse_prompt(prompt) for prompt in _as_list(prompts)]
        params = self._params_for(requests, sampling_params)
        if priority is not None and len(priority) != len(requests):
            raise RequestError(f"priority has {len(priority)} entries for {len(requests)} prompts")
        return self._run(requests, params, list(priority or [0] * len(requests)), use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool | Callable[..., Any] = True,
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer a conversation, or each of several, after rendering it with the chat template.

        Args:
            messages: ``[{"role": ..., "content": ...}, ...]``, or a list of such lists.
            chat_template: a template to use in place of the model's own.
            chat_template_kwargs: extra variables for the template.
        """
        if not messages:
            raise RequestError("messages is empty; give at least one message")
        single = isinstance(messages[0], Mapping)
        conversations: list[Any] = [messages] if single else list(messages)
        template = self._loaded.chat_template
        if chat_template is not None:
            tokenizer = self._loaded.tokenizer
            template = ChatTemplate(
                chat_template, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
            )
        if template is None:
            raise RequestError("the model has no chat template; give chat_template")
        variables = dict(chat_template_kwargs or {})
        check_variables(variables)
        prompts: list[Prompt] = []
        for conversation in conversations:
            text = template.render(
                [dict(message) for message in conversation],
                add_generation_prompt=add_generation_prompt,
                **variables,
            )
            ids = self._loaded.tokenizer.encode(text, add_special_tokens=False)
            prompts.append({"prompt": text, "prompt_token_ids": ids})
        return self.generate(prompts, sampling_params, use_tqdm=use_tqdm)

    def shutdown(self) -> None:
        """Stop the engine's thread; requests still running end with ``finish_reason`` "abort"."""
        self._loaded.engine.shutdown()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _parse_prompt(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        if isinstance(prompt, str):
            return prompt, self._loaded.tokenizer.encode(prompt)
        if isinstance(prompt, Mapping):
            text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
            if ids is not None:
                return text, list(ids)
            if isinstance(text, str):
                return text, self._loaded.tokenizer.encode(text)
            raise RequestError('a prompt mapping needs "prompt" (text) or "prompt_token_ids"', param="prompt")
        return None, list(prompt)

    def _params_for(
        self,
        requests: Sequence[object],
        given: SamplingParams | Sequence[SamplingParams] | None,
    ) -> list[SamplingParams]:
        if given is None:
            given = self.get_default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * len(requests)
        if len(given) != len(requests):
            raise RequestError(f"sampling_params has {len(given)} entries for {len(requests)} prompts")
        return list(given)

    def _run(
        self,
        requests: list[tuple[str | None, list[int]]],
        params: list[SamplingParams],
        priorities: list[int],
        use_tqdm: bool | Callable[..., Any],
    ) -> list[RequestOutput]:
        engine = self._loaded.engine
        deltas: queue.SimpleQueue[RequestDelta] = queue.SimpleQueue()
        collectors: dict[str, OutputCollector] = {}
        unfinished: set[str] = set()
        waiting = deque(zip(requests, params, priorities, strict=True))
        progress = _progress(use_tqdm, len(requests))

        def submit_until_full() -> None:
            # The queue is bounded; what does not fit is submitted as requests finish.
            while waiting:
                (text, ids), request_params, priority = waiting[0]
                request_id = new_request_id("llm")
                try:
                    engine.add_request(
                        request_id, ids, request_params, on_delta=deltas.put, priority=priority
                    )
                except QueueFullError:
                    if not unfinished:
                        raise
                    return
                waiting.popleft()
                collectors[request_id] = OutputCollector(request_id, text, ids, request_params.n)
                unfinished.add(request_id)

        try:
            submit_until_full()
            while unfinished:
                delta = deltas.get()
                collector = collectors[delta.request_id]
                collector.add(delta)
                if collector.finished:
                    unfinished.discard(delta.request_id)
                    if progress is not None:
                        progress.update(1)
                    submit_until_full()
        finally:
            for request_id in unfinished:
                engine.abort(request_id)
            if progress is not None:
                progress.close()
        return [collector.output() for collector in collectors.values()]


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or many; a flat list of integers is one prompt of token ids."""
    if isinstance(prompts, (str, Mapping)):
        return [prompts]
    items: list[Any] = list(prompts)
    if items and all(isinstance(item, int) for item in items):
        return [items]
    return items


def _progress(use_tqdm: bool | Callable[..., Any], total: int) -> Any:
    if not use_tqdm:
        return None
    if callable(use_tqdm):
        return use_tqdm(total=total, desc="Processed prompts")
    from tqdm import tqdm

    return tqdm(total=total, desc="Processed prompts", dynamic_ncols=True)
