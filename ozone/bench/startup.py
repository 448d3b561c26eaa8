"""`ozone bench startup`: process start to first token, level by level, in processes of their own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ozone.bench.child import child_failure, engine_words
from ozone.bench.reporting import Reporter, Row, add_report_arguments, header
from ozone.bench.statistics import Summary
from ozone.bench.workload import count, whole
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.errors import ConfigError

# What every start here waits for; measured in the same rounds as the starts.
_IMPORT_TORCH = (
    "import time, torch; from ozone.entrypoints.startup import process_start_time; "
    "print(time.monotonic() - process_start_time())"
)


@dataclass(frozen=True)
class Start:
    """One start, in seconds after process start. `phases`: seconds by name; they may overlap."""

    first_token: float
    ready: float
    phases: dict[str, float]
    peak_resident_bytes: int | None

    @classmethod
    def parse(cls, text: str) -> Start:
        """From what `ozone.bench.startup_child` prints."""
        report = json.loads(text)
        startup = report["startup"]
        phases: dict[str, float] = {}
        for phase in startup["phases"]:
            phases[phase["name"]] = phases.get(phase["name"], 0.0) + phase["seconds"]
        return cls(
            report["first_token_seconds"], startup["total_seconds"], phases, report["peak_resident_bytes"]
        )


def main(argv: list[str]) -> int:
    """Measure and report; returns the exit code."""
    parser = ArgumentParser(
        prog="ozone bench startup",
        description="Start a process again and again, level after level in turn, and measure from process\n"
        "start to the first token. Files come from the page cache, as after a first start, and compiled\n"
        "programs from the cache directory, unless --cold.",
    )
    group = parser.add_argument_group("measurement")
    own = [
        group.add_argument(
            "--levels",
            type=_levels,
            default=(0, 1, 2, 3),
            metavar="0,1,2,3",
            help="levels (default: 0,1,2,3)",
        ),
        group.add_argument("--runs", type=count, default=5, metavar="N", help="starts a level (default: 5)"),
        group.add_argument(
            "--runs-warmup", type=whole, default=1, metavar="N", help="starts before those (default: 1)"
        ),
        group.add_argument(
            "--cold", action="store_true", help="every start has an empty cache directory, and compiles"
        ),
        add_report_arguments(parser),
    ]
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    if engine_args(namespace).optimization_level is not None:
        raise ConfigError("ozone bench startup takes its levels from --levels 0,1,2,3; leave out -O")
    reporter = Reporter(namespace.json)
    levels: tuple[int, ...] = namespace.levels
    words = engine_words(argv, own)
    starts, floor = _measure(
        levels, namespace.runs, namespace.runs_warmup, words, reporter, cold=namespace.cold
    )
    parameters = {
        "levels": levels,
        "runs": namespace.runs,
        "runs_warmup": namespace.runs_warmup,
        "cold": namespace.cold,
    }
    report = {
        **header("startup", parameters),
        "results": {f"O{level}": _as_json(starts[level], starts[levels[0]]) for level in levels},
        "machine": {"import_torch_seconds": floor.as_json()},
    }
    kind = "cold starts" if namespace.cold else "starts"
    title = f"start-up, {namespace.runs} {kind} a level, medians"
    reporter.finish(title, _rows(levels, starts, floor), report)
    return 0


def _levels(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().removeprefix("O") in ("0", "1", "2", "3") for word in words):
        raise argparse.ArgumentTypeError(f"{text}: expected some of 0,1,2,3, with commas between")
    return tuple(dict.fromkeys(int(word.strip().removeprefix("O")) for word in words))


def _measure(
    levels: tuple[int, ...],
    runs: int,
    warmup: int,
    words: Sequence[str],
    reporter: Reporter,
    *,
    cold: bool,
) -> tuple[dict[int, list[Start]], Summary]:
    starts: dict[int, list[Start]] = {level: [] for level in levels}
    floors: list[float] = []
    with reporter.progress("starts", (runs + warmup) * (len(levels) + 1)) as step:
        for index in range(runs + warmup):
            # In turn, so that a slow minute of the machine is every level's.
            round_of_starts = {}
            for level in levels:
                round_of_starts[level] = _start([*words, f"-O{level}"], cold=cold)
                step()
            floor = float(_python("-c", _IMPORT_TORCH))
            step()
            if index >= warmup:
                floors.append(floor)
                for level, start in round_of_starts.items():
                    starts[level].append(start)
    return starts, Summary.of(floors)


def _start(words: Sequence[str], *, cold: bool) -> Start:
    child = ("-m", "ozone.bench.startup_child", *words)
    if not cold:
        return Start.parse(_python(*child))
    with tempfile.TemporaryDirectory(prefix="ozone-cold-") as empty:
        return Start.parse(_python(*child, f"-cc.cache_dir={empty}"))


def _python(*words: str) -> str:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise child_failure("python " + " ".join(words[:2]), done.returncode, done.stderr)
    return done.stdout


def _first_token(starts: Sequence[Start]) -> Summary:
    return Summary.of([start.first_token for start in starts])


def _peak_bytes(starts: Sequence[Start]) -> float | None:
    peaks = [start.peak_resident_bytes for start in starts if start.peak_resident_bytes is not None]
    return Summary.of(peaks).median if peaks else None


def _phases(starts: Sequence[Start]) -> dict[str, float]:
    names = dict.fromkeys(name for start in starts for name in start.phases)
    return {name: Summary.of([start.phases.get(name, 0.0) for start in starts]).median for name in names}


def _as_json(starts: Sequence[Start], first_level: Sequence[Start]) -> dict[str, Any]:
    return {
        "first_token_seconds": _first_token(starts).as_json(),
        "ready_seconds": Summary.of([start.ready for start in starts]).as_json(),
        "phase_seconds": _phases(starts),
        "peak_resident_bytes": _peak_bytes(starts),
        "ratio_to_first_level": _first_token(starts).median / _first_token(first_level).median,
    }


def _rows(levels: tuple[int, ...], starts: dict[int, list[Start]], floor: Summary) -> list[Row]:
    rows = [("import torch alone", f"{floor.median:.2f} s", "every start here waits for it")]
    base = _first_token(starts[levels[0]]).median
    for level in levels:
        first, peak = _first_token(starts[level]), _peak_bytes(starts[level])
        remark = f"to first token; p10 {first.p10:.2f}, p90 {first.p90:.2f}"
        if level != levels[0]:
            remark += f"; {first.median / base:.2f} times -O{levels[0]}"
        if peak is not None:
            remark += f"; at most {peak / 1e6:.0f} MB resident"
        rows.append((f"-O{level}", f"{first.median:.2f} s", remark))
        phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in _phases(starts[level]).items())
        rows.append(("", "", f"{phases} (may overlap)"))
    return rows
