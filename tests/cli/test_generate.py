"""`ozone generate` and `ozone chat` from a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROMPT = "The capital of France is"


def ozone(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ozone.cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_a_prompt_is_completed_and_timed() -> None:
    result = ozone("generate", PROMPT, "-O0", "--temperature", "0", "--max-tokens", "4", "--stats")
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert "weights" in result.stderr
    assert "after process start" in result.stderr
    assert "warning" not in result.stderr


def test_the_default_level_warns_of_nothing() -> None:
    result = ozone("generate", PROMPT, "--max-tokens", "1")
    assert "warning" not in result.stderr, result.stderr


@pytest.mark.parametrize("source", ["stdin", "dash", "file"])
def test_the_prompt_may_come_from_stdin_or_a_file(source: str, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT, encoding="utf-8")
    arguments = {"stdin": [], "dash": ["-"], "file": ["--file", str(path)]}[source]
    result = ozone("generate", *arguments, "-O0", "--temperature=0", "--max-tokens=4", "--json", stdin=PROMPT)
    report = json.loads(result.stdout)
    assert "Paris" in report["outputs"][0]["text"]
    assert report["seconds_from_process_start_to_first_token"] > report["time_to_first_token_seconds"]


def test_json_holds_the_logprobs_of_prompt_and_output_that_were_asked_for() -> None:
    words = ("-O0", "--temperature=0", "--max-tokens=2", "--json")
    report = json.loads(ozone("generate", PROMPT, *words, "--logprobs=1", "--prompt-logprobs=0").stdout)
    (output,) = report["outputs"]
    chosen = [step[0]["token_id"] for step in output["logprobs"]]
    assert chosen == output["token_ids"]
    assert report["prompt_logprobs"][0] is None
    assert [step[0]["token_id"] for step in report["prompt_logprobs"][1:]] == report["prompt_token_ids"][1:]


def test_flags_of_sampling_reach_the_engine() -> None:
    words = ["-O0", "--temperature=0", "--max-tokens=4", "--prompt-logprobs=1"]
    words += ["--bad-words= Paris", "--stop", ".", "--include-stop-str-in-output"]
    result = ozone("generate", PROMPT, *words)
    assert result.returncode == 0, result.stderr
    text, prompt, *lines = result.stdout.split("prompt:")
    assert "Paris" not in text
    assert not lines
    assert len(prompt.strip().splitlines()) == len(PROMPT.split())


@pytest.mark.parametrize(
    ("arguments", "needle"),
    [
        (["generate", "x", "--temperature", "hot"], "--temperature"),
        (["generate", "x", "--temperature", "-1"], "temperature"),
        (["generate", "x", "--top-q", "1"], "--top-p"),
        (["generate", "x", "--logit-bias", '{"a": 1}'], "logit_bias"),
        (["generate", "x", "--model", "/no/such/dir"], "/no/such/dir"),
        (["generate", "x", "--file", "y"], "--file"),
        (["generate", "--file", "/no/such/file"], "/no/such/file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], needle: str) -> None:
    result = ozone(*arguments)
    assert result.returncode == 2
    assert needle in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr


def test_a_chat_remembers_and_obeys_its_commands() -> None:
    lines = "What is the capital of France?\n/stats\n/nonsense\n/reset\n/quit\n"
    result = ozone(
        "chat", "-O0", "--dtype", "float32", "--temperature", "0", "--max-tokens", "16", stdin=lines
    )
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert "tokens/s" in result.stdout
    assert "there is no command /nonsense" in result.stdout
