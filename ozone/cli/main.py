"""The `ozone` command: finds the subcommand, imports only its module, prints a mistake as one line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ozone.errors import OzoneError


class Subcommand(NamedTuple):
    """One subcommand: its module has `main(argv) -> int` and is imported when it is used."""

    module: str
    help: str


SUBCOMMANDS: dict[str, Subcommand] = {
    "serve": Subcommand("ozone.cli.serve", "serve a model over HTTP, as OpenAI's clients expect it"),
    "generate": Subcommand("ozone.cli.generate", "continue a prompt, a file or standard input"),
    "chat": Subcommand("ozone.cli.chat", "chat with a model in this terminal"),
    "config": Subcommand("ozone.cli.config_cmd", "show every setting, who set it and why"),
    "quantize": Subcommand("ozone.cli.quantize", "write a checkpoint in FP8, INT8 or 4 bits"),
    "compile": Subcommand("ozone.cli.compile", "compile a model now, so that later starts are warm"),
    "cache": Subcommand("ozone.cli.cache", "list or clear what is kept between starts"),
    "bench": Subcommand("ozone.cli.bench", "measure latency, throughput, serving, start-up, the machine"),
}

_HELP = """\
Ozone runs language models on ordinary CPUs. One flag trades start-up time for speed.

usage: ozone COMMAND [MODEL] [flags]

commands:
{commands}

  MODEL is a directory, a .gguf file or a hub id; without one it is the built-in smollm2.

levels:
  -O0   start as fast as possible: no compilation, no graphs
  -O1   fast start: compilation, fast fusions, piecewise graphs
  -O2   speed first (default): full graphs for decode, more fusions and compile ranges
  -O3   as -O2 today; the place for slow or experimental optimizations
  Everything a level sets can be set by hand: ozone serve -O1 -cc.cudagraph_mode=NONE

examples:
  ozone serve                                     serve smollm2 on http://127.0.0.1:8000
  ozone serve Qwen/Qwen3-0.6B -O1 --port 9000     another model, a faster start
  ozone generate "The capital of France is" --max-tokens 16
  ozone config -O0 -cc.cudagraph_mode=FULL        what would be in force, and why

  ozone COMMAND --help     the flags of one command
  ozone --version          version and native library
"""


def help_text() -> str:
    """What `ozone --help` prints."""
    rows = (f"  {name:<10}{command.help}" for name, command in SUBCOMMANDS.items())
    return _HELP.format(commands="\n".join(rows))


def version_text() -> str:
    """What `ozone --version` prints."""
    from ozone import __version__
    from ozone.native import build_info

    info = build_info()
    native = "not built" if info is None else ", ".join(f"{key} {value}" for key, value in info.items())
    return f"ozone {__version__} (native library: {native})"


def run(argv: Sequence[str]) -> int:
    """Run one command line and return the exit code; an `OzoneError` passes through."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text(), end="")
        return 0
    if argv[0] in ("-V", "--version", "version"):
        print(version_text())
        return 0
    name, *rest = argv
    if name not in SUBCOMMANDS:
        raise OzoneError(_unknown(name))
    module = importlib.import_module(SUBCOMMANDS[name].module)
    code: int = module.main(rest)
    return code


def _unknown(name: str) -> str:
    import difflib

    if name.startswith("-"):
        return f"a command comes first, not {name}: ozone {{{','.join(SUBCOMMANDS)}}} [MODEL] [flags]"
    nearest = difflib.get_close_matches(name, SUBCOMMANDS, n=1, cutoff=0.4)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(SUBCOMMANDS)}"
    return f"there is no command {name}; {hint}"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `ozone` script: exit code 2 and one line for a user's mistake, 130 for Ctrl-C."""
    from ozone.entrypoints.console import run_program

    def program() -> int:
        code = run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return code

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
