"""Prompts: random ones, and those of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ozone.bench.workload import random_token_ids, read_prompts, take
from ozone.errors import ConfigError


def test_random_prompts_repeat_with_their_seed_and_differ_from_each_other() -> None:
    prompts = random_token_ids(5, 20, range(1000), seed=7)
    assert prompts == random_token_ids(5, 20, range(1000), seed=7)
    assert prompts != random_token_ids(5, 20, range(1000), seed=8)
    assert len({tuple(prompt) for prompt in prompts}) == 5
    assert {len(prompt) for prompt in prompts} == {20}
    assert all(0 <= token < 1000 for prompt in prompts for token in prompt)


def test_a_text_file_holds_a_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('one\n\n"two"\n')
    assert read_prompts(path) == ["one", '"two"']


def test_a_jsonl_file_holds_texts_objects_and_token_ids(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('"one"\n{"prompt": "two", "id": 1}\n\n{"prompt_token_ids": [1, 2]}\n')
    assert read_prompts(path) == ["one", "two", [1, 2]]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n", "holds no prompt"),
        ("binary.txt", b"\xff\xfe", "not UTF-8"),
        ("bad.jsonl", b'"a"\n{', "line 2: not valid JSON"),
        ("bad.jsonl", b'{"text": "a"}', "line 1: expected a text, or an object"),
        ("bad.jsonl", b'{"prompt_token_ids": [1, "2"]}', "line 1: expected a text, or an object"),
    ],
)
def test_a_bad_dataset_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_prompts(path)
    assert str(path) in str(caught.value)


def test_a_missing_dataset_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_prompts(tmp_path / "none.txt")


def test_too_few_prompts_are_used_again() -> None:
    assert take(["a", "b"], 5) == ["a", "b", "a", "b", "a"]
