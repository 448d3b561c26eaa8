"""`ozone compile`: compiles a model and exits, so that later starts with the same flags are warm."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.entrypoints.console import start_logging
from ozone.entrypoints.startup import StartupTimer, process_start_time
from ozone.errors import ConfigError, OzoneError, harmless

if TYPE_CHECKING:
    from ozone.entrypoints.assemble import LoadedModel

_DESCRIPTION = """\
Compile a model, keep the programs in the cache directory, and exit: a later start with the same model
and flags loads them. Give the flags of that start, all that it has.

For a container image, run it while the image is built, as the user and on the kind of CPU that will serve:

  RUN OZONE_CACHE_DIR=/var/cache/ozone ozone compile MODEL -O2 --max-model-len 8192

Programs are for one instruction set. ozone cache ls shows what is kept."""


def main(argv: list[str]) -> int:
    """Run `ozone compile`; returns the exit code."""
    timer = StartupTimer(process_start_time())
    parser = ArgumentParser(
        prog="ozone compile", usage="ozone compile [MODEL] [flags]", description=_DESCRIPTION
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("-v", "--verbose", action="store_true", help="show every phase of the start")
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    start_logging()

    from ozone.entrypoints.assemble import load

    loaded = load(args, timer=timer)
    try:
        report = _report(loaded)
    finally:
        loaded.engine.shutdown()
    if namespace.verbose:
        print(timer.table(), file=sys.stderr, flush=True)
    print(json.dumps(report) if namespace.json else harmless(_text(report)))
    return 0


def _report(loaded: LoadedModel) -> dict[str, Any]:
    """What was made. `OzoneError` where nothing is kept."""
    from ozone.compilation.artifact_store import cache_disabled
    from ozone.compilation.debug_dump.directory import dump_path

    compilation, programs = loaded.config.compilation, loaded.programs
    if programs is None:
        raise ConfigError(
            f"these settings (-O{loaded.config.optimization_level}, mode {compilation.mode.name}, custom_ops "
            f"{list(compilation.custom_ops)}) make no programs to keep; what -O1 and above set does"
        )
    if cache_disabled():
        raise ConfigError("nothing is kept while OZONE_DISABLE_COMPILE_CACHE is set: unset it")
    if programs.kept is None:
        raise OzoneError("the model compiles, but nothing was kept, for the reason above")
    phases = {phase["name"]: phase["seconds"] for phase in loaded.startup.report()["phases"]}
    return {
        "model": loaded.config.model.model,
        "debug_dump": None if (dump := dump_path(loaded.config)) is None else f"{dump}/index.html",
        "key": programs.kept.stem,
        "file": str(programs.kept),
        "size_bytes": programs.kept.stat().st_size,
        "compiled": not programs.loaded,
        "tuning": None if loaded.tuning is None else loaded.tuning.origin,
        "ranges": programs.summary(),
        "phase_seconds": {
            name: phases[name]
            for name in ("trace", "rewrite", "lower", "generate code", "load programs", "tune")
            if name in phases
        },
    }


def _text(report: dict[str, Any]) -> str:
    ranges = "; ".join(_range(**made) for made in report["ranges"])
    phases = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in report["phase_seconds"].items())
    how = f"compiled ({phases})" if report["compiled"] else "was compiled before"
    kept = f"{report['size_bytes'] / 1e3:.0f} kB in {report['file']}"
    dump = f"\ndebug dump: {report['debug_dump']}" if report["debug_dump"] is not None else ""
    tuning = f"\nkernels: {report['tuning']}" if report["tuning"] is not None else ""
    return f"{report['model']}: {how}\n{ranges}{tuning}\n{kept}{dump}"


def _range(first: int, last: int, passes: Sequence[Mapping[str, Any]], **parts: int) -> str:
    """What there is for a range of token counts, and where passes have changed it."""
    fused = ", ".join(f"{made['flag']} {made['places']}" for made in passes if made["places"])
    what = ", ".join(f"{number} {name}" for name, number in parts.items())
    return f"{first}-{last} tokens: {what}" + (f" ({fused})" if fused else "")
