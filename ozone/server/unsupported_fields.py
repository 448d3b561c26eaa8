"""Request fields, of OpenAI, vLLM, llama.cpp and SGLang, that ask for what Ozone does not do, as data.

They are refused: answered without them, a text would not be what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ozone.engine.sampling_params import MISSING_ARGUMENTS
from ozone.errors import RequestError

_NOTHING: tuple[Any, ...] = (None, "", [], {})


class Unsupported(NamedTuple):
    """What a field asks for, and the values that ask for nothing."""

    what: str
    harmless: tuple[Any, ...] = _NOTHING


def _but(*harmless: Any) -> tuple[Any, ...]:
    return (*_NOTHING, *harmless)


_PARAMETER = "This sampling parameter"
# Even an empty schema or choice constrains the text.
_STRUCTURED = Unsupported("Structured output", (None,))

UNSUPPORTED: Mapping[str, Unsupported] = {
    **{name: Unsupported(_PARAMETER, _but(unused)) for name, unused in MISSING_ARGUMENTS.items()},
    "best_of": Unsupported("Choosing the best of several completions", _but(1)),
    "detokenize": Unsupported("An answer without text", _but(True)),
    "skip_reading_prefix_cache": Unsupported("Bypassing the prefix cache", _but(False)),
    "vllm_xargs": Unsupported("Passing extra arguments"),
    "kv_transfer_params": Unsupported("Moving the KV cache between servers"),
    "ec_transfer_params": Unsupported("Moving an encoder's cache between servers"),
    "watermarking": Unsupported("Watermarking", _but(False)),
    "return_weight_versions": Unsupported("Naming versions of weights", _but(False)),
    "include_reasoning": Unsupported("Leaving the reasoning out of an answer", _but(True)),
    "separate_reasoning": Unsupported("Leaving the reasoning out of an answer", _but(False)),
    "echo": Unsupported("Repeating the last message", _but(False)),
    "functions": Unsupported("Function calling"),
    "function_call": Unsupported("Function calling", _but("none", "auto")),
    "response_format": Unsupported("Structured output", _but({"type": "text"})),
    "structured_outputs": _STRUCTURED,
    "guided_json": _STRUCTURED,
    "guided_regex": _STRUCTURED,
    "guided_choice": _STRUCTURED,
    "guided_grammar": _STRUCTURED,
    "json_schema": _STRUCTURED,
    "regex": _STRUCTURED,
    "ebnf": _STRUCTURED,
    "structural_tag": _STRUCTURED,
    "grammar": Unsupported("Structured output", (None, "")),
    "suffix": Unsupported("Inserting text before a suffix"),
    "use_beam_search": Unsupported("Beam search", _but(False)),
    "logits_processors": Unsupported("Custom logits processors"),
    "custom_logit_processor": Unsupported("Custom logits processors"),
    "lora_path": Unsupported("LoRA"),
    "stop_regex": Unsupported("Stopping at a regular expression"),
    "no_stop_trim": Unsupported("Keeping the stop string (use include_stop_str_in_output)", _but(False)),
    "prompt_embeds": Unsupported("A prompt of embeddings"),
    "audio": Unsupported("Audio"),
    "modalities": Unsupported("Any modality but text", _but(["text"])),
    "mm_processor_kwargs": Unsupported("Any modality but text"),
    "media_io_kwargs": Unsupported("Any modality but text"),
    "chat_template": Unsupported("A chat template inside a request"),
    "documents": Unsupported("Documents for retrieval"),
    "web_search_options": Unsupported("Web search"),
    # llama.cpp's samplers, with what switches them off.
    "samplers": Unsupported("An order of samplers"),
    "typical_p": Unsupported(_PARAMETER, _but(1)),
    "tfs_z": Unsupported(_PARAMETER, _but(1)),
    "top_a": Unsupported(_PARAMETER, _but(0)),
    "top_n_sigma": Unsupported(_PARAMETER, _but(0, -1)),
    "mirostat": Unsupported(_PARAMETER, _but(0)),
    "dynatemp_range": Unsupported(_PARAMETER, _but(0)),
    "xtc_probability": Unsupported(_PARAMETER, _but(0)),
    "dry_multiplier": Unsupported(_PARAMETER, _but(0)),
}


def refuse_unsupported(fields: Mapping[str, Any]) -> None:
    """Raise RequestError for a field that asks for what Ozone does not do."""
    for name, (what, harmless) in UNSUPPORTED.items():
        if name in fields and fields[name] not in harmless:
            raise RequestError(f"{what} is not supported ('{name}')", param=name)
