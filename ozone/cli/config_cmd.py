"""`ozone config`: every setting, its value, who set it and why. Never imports torch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

from ozone.compilation.artifact_file import DamagedArtifactError
from ozone.compilation.artifact_store import UnusableStoreError
from ozone.compilation.tuning.choosing import DEFAULT, differing, most_saved
from ozone.compilation.tuning.keeping import read
from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.ranges import compiled_for
from ozone.config.report import settings_json, settings_rows, table
from ozone.config.resolve import resolve_settings, unstartable
from ozone.config.schema import OzoneConfig
from ozone.config.values import show
from ozone.errors import ModelFileError, escaped
from ozone.native import platform_facts
from ozone.server.flags import add_server_arguments, server_settings

_DESCRIPTION = """\
Show what would be in force with these flags: every setting, its value, who set it and why.
Without MODEL the settings are those of the default model, if it is installed.
The flags of ozone serve are accepted too, and change nothing here."""

# Wider than any line.
_NO_WRAP = 10_000


def main(argv: list[str]) -> int:
    """Run `ozone config`."""
    parser = ArgumentParser(
        prog="ozone config", usage="ozone config [MODEL] [flags]", description=_DESCRIPTION
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="the machine's facts and tuned kernels too"
    )
    add_engine_arguments(parser, model="both")
    _add_silent_server_arguments(parser)
    namespace = parser.parse_args(argv)
    server_settings(namespace)  # only checked: none of them is a setting of the engine
    args = engine_args(namespace)
    facts = platform_facts()
    config = resolve_settings(args, _read_model(args), facts)
    if namespace.json:
        print(json.dumps(settings_json(config), indent=2))
    else:
        print(as_text(config, facts, verbose=namespace.verbose, width=_width()))
    return 0


def _add_silent_server_arguments(parser: argparse.ArgumentParser) -> None:
    """The server's flags, so that a command line of `ozone serve` works here; help does not show them."""
    shown = len(parser._actions)
    add_server_arguments(parser)
    for action in parser._actions[shown:]:
        action.help = argparse.SUPPRESS


def _read_model(args: EngineArgs) -> ModelConfig | None:
    from ozone.weights.model_files import open_model_of

    try:
        return open_model_of(args, config_only=True).config
    except ModelFileError:
        if args.model is not None:
            raise
        return None


def as_text(config: OzoneConfig, facts: PlatformFacts, *, verbose: bool, width: int) -> str:
    """The settings as a table that fits `width` columns, then the notices."""
    rows = settings_rows(config)
    if verbose:
        rows += [("", "", "", "")]
        rows += [
            (f"platform.{field.name}", _fact(getattr(facts, field.name)), "platform", "")
            for field in dataclasses.fields(facts)
        ]
        compilation, most = config.compilation, config.scheduler.max_num_batched_tokens
        ranges = compiled_for(compilation, most) if compilation.compile_ranges_endpoints else ()
        rows += [("compile ranges", show(ranges), "resolution", "token counts that share a compiled graph")]
    lines = table(rows, width)
    missing = unstartable(config)
    notes = [*config.notices, *([] if missing is None else [missing])]
    if verbose:
        lines += ["", *_tuning(config, width)]
    if notes:
        lines += ["", *(f"note: {escaped(note)}" for note in notes)]
    return "\n".join(lines)


def _tuning(config: OzoneConfig, width: int) -> list[str]:
    """The ways of kernels that earlier starts have chosen on this machine."""
    if not config.kernel.enable_flashinfer_autotune:
        return ["kernels take their default ways: kernel_config.enable_flashinfer_autotune is off"]
    try:
        found = read(Path(config.compilation.cache_dir), config.parallel.num_threads)
    except (OSError, UnusableStoreError, DamagedArtifactError) as error:
        return [f"what tuning has kept cannot be used: {error}"]
    if found is None:
        return ["kernels are not tuned yet for this machine, build and number of threads: a start does it"]
    file, kept = found
    rows = [("kernel", "shape", "ways", "saves at most")]
    for choice in kept.choices.values():
        saved = f"{most_saved(choice.figures):.0%}"
        rows.append((choice.kernel, choice.label, differing(choice.spans) or DEFAULT, saved))
    return [f"ways of kernels, by number of rows ({file}):", *table(rows, width)]


def _width() -> int:
    """Columns to wrap to; a file or a pipe gets one line for each setting."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _NO_WRAP


def _fact(value: object) -> str:
    return ", ".join(sorted(value)) or "none" if isinstance(value, frozenset) else show(value)
