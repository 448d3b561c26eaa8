"""An answer ends where its turn ends, whatever token the file names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ozone.engine.chat_template import ChatTemplate
from ozone.engine.end_tokens import gguf_end_tokens, template_end_token
from ozone.engine.tokenizer import Tokenizer
from ozone.entrypoints.assemble import end_token_ids, tokenizer_of
from ozone.weights.model_files import ModelFiles, open_model


@pytest.fixture(scope="module")
def default() -> tuple[ModelFiles, Tokenizer]:
    from ozone.config.args import EngineArgs
    from ozone.config.resolve import resolve
    from ozone.native import platform_facts

    files = open_model("smollm2")
    config = resolve(EngineArgs(), files.config, platform_facts())
    return files, tokenizer_of(files, config)


def patched(files: ModelFiles, **values: Any) -> ModelFiles:
    metadata = dict(files.gguf_metadata or {}) | {f"tokenizer.ggml.{k}": v for k, v in values.items()}
    ids = (values["eos_token_id"],) if "eos_token_id" in values else files.config.eos_token_ids
    config = dataclasses.replace(files.config, eos_token_ids=ids)
    return dataclasses.replace(files, gguf_metadata=metadata, config=config)


def test_a_file_that_names_the_base_models_token_ends_like_llama_cpp(
    default: tuple[ModelFiles, Tokenizer],
) -> None:
    files, tokenizer = default
    assert gguf_end_tokens(tokenizer, {}) == {0, 2, 4}
    assert end_token_ids(patched(files, eos_token_id=0), tokenizer, {}, None) == {0, 2, 4} | (
        {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    )


@pytest.mark.parametrize("wrong", [-1, 10**9, 2**64, True, "2", 1.5, None, [2]])
def test_ids_outside_the_vocabulary_are_ignored(default: tuple[ModelFiles, Tokenizer], wrong: object) -> None:
    files, tokenizer = default
    metadata = {"tokenizer.ggml.eot_token_id": wrong}
    assert gguf_end_tokens(tokenizer, metadata) == {0, 2, 4}
    ids = end_token_ids(
        dataclasses.replace(files, gguf_metadata=None), tokenizer, {"eos_token_id": wrong}, None
    )
    assert all(0 <= token < files.config.vocab_size for token in ids)


def test_a_files_own_ids_of_turns_count(default: tuple[ModelFiles, Tokenizer]) -> None:
    _, tokenizer = default
    assert gguf_end_tokens(tokenizer, {"tokenizer.ggml.eot_token_id": 7}) == {0, 2, 4, 7}


def test_the_chat_template_says_what_ends_a_turn(default: tuple[ModelFiles, Tokenizer]) -> None:
    files, tokenizer = default
    assert files.chat_template is not None
    assert template_end_token(tokenizer, ChatTemplate(files.chat_template)) == 2


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",  # nothing but text behind an answer
        "{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}",  # the answer is not found
        "{{ raise_exception('no') }}",
        "",
    ],
)
def test_other_templates_say_nothing(default: tuple[ModelFiles, Tokenizer], template: str) -> None:
    assert template_end_token(default[1], ChatTemplate(template)) is None


def test_a_checkpoint_with_another_config_ends_with_its_template(
    default: tuple[ModelFiles, Tokenizer],
) -> None:
    files, tokenizer = default
    assert files.chat_template is not None
    hugging_face = dataclasses.replace(patched(files, eos_token_id=0), gguf_metadata=None)
    ids = end_token_ids(hugging_face, tokenizer, {}, ChatTemplate(files.chat_template))
    assert 2 in ids and 4 not in ids
