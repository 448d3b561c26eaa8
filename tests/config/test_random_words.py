"""Whatever is typed, or stands in a config file, is answered with settings or with one line: random words."""

from __future__ import annotations

import contextlib
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.vllm_options import OPTIONS, SHORT, long_names
from ozone.errors import ConfigError
from ozone.server.flags import add_server_arguments, server_settings

Case = Callable[[random.Random, Path], object]

# Words with one space between.
PLAIN = (
    '1 -1 0 true false none null x {} [] [1,2] {"a":1} 1e9 nan inf 1.5 é { [ a=b 8k 8K 1GiB @f * -x --y '
    '1,2 [all {"mode":3} auto cudagraph_capture_sizes'
)
YAML = [
    "2020-01-01",
    "[a,b]",
    "{a:{b:c}}",
    "&a[*a]",
    "!!set{a}",
    "0x10",
    "1:30",
    "~",
    "'x'",
    "*a",
    "<<:{a:1}",
    "?",
    "%",
    "`",
    "!x",
]
VALUES = [*PLAIN.split(), "", " ", "9" * 400, "\x00", "\x1b[2J", "\udcff"]
OBJECTS = [None, True, False, 0, -1, 1.5, float("nan"), "", "x", [], {}, [1], {"a": 1}, b"x", 10**400, print]


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="ozone serve")
    add_engine_arguments(parser, model="both")
    add_server_arguments(parser)
    return parser


OTHERS = ("-cc.mode", "-cc.pass_config", "-ac.b", "-O3")
FLAGS = sorted({*make_parser()._option_string_actions, *long_names(), *SHORT, *OTHERS} - {"--help", "-h"})


def damaged(chance: random.Random, word: str) -> str:
    """`word`, mostly as it is."""
    kind = chance.random()
    place = chance.randrange(len(word) + 1)
    if kind < 0.1:
        return word[:place] + chance.choice("_.=- x\u2013") + word[place:]
    return word.upper() if kind < 0.15 else word.replace("-", "_") if kind < 0.2 else word


def command_line(chance: random.Random, folder: Path) -> None:
    words: list[str] = []
    for _ in range(chance.randrange(1, 6)):
        flag, value = damaged(chance, chance.choice(FLAGS)), chance.choice(VALUES)
        words += chance.choice(([f"{flag}={value}"], [flag, value], [flag]))
    namespace = make_parser().parse_args(words)
    engine_args(namespace)
    server_settings(namespace)


def config_file(chance: random.Random, folder: Path) -> None:
    lines = (
        f"{damaged(chance, chance.choice(FLAGS)).lstrip('-')}: {chance.choice(VALUES + YAML)}"
        for _ in range(chance.randrange(1, 5))
    )
    file = folder / "run.yaml"
    file.write_text("\n".join(lines), errors="surrogatepass")
    namespace = make_parser().parse_args(["--config", str(file)])
    engine_args(namespace)
    server_settings(namespace)


def arguments(chance: random.Random, folder: Path) -> None:
    EngineArgs.from_kwargs(**{chance.choice(list(OPTIONS)): chance.choice(OBJECTS) for _ in range(3)})


def check(make: Case, count: int, folder: Path) -> None:
    chance = random.Random(16)
    for _ in range(count):
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.suppress(ConfigError, SystemExit):
            make(chance, folder)
        assert not errors.getvalue() or errors.getvalue().removesuffix("\n").isprintable()


@pytest.mark.parametrize(("make", "count"), [(command_line, 1000), (config_file, 1000), (arguments, 3000)])
def test_random_words_are_answered(make: Case, count: int, tmp_path: Path) -> None:
    check(make, count, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("make", [command_line, config_file, arguments])
def test_many_random_words_are_answered(make: Case, tmp_path: Path) -> None:
    check(make, 10_000, tmp_path)
