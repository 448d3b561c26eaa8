"""What `ozone bench startup` starts: load a model, generate one token, print when, as one JSON object."""

from __future__ import annotations

import json
import sys
import time

PROMPT = "The capital of France is"


def main(argv: list[str] | None = None) -> int:
    """Start as the flags of the engine say; returns the exit code."""
    from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
    from ozone.entrypoints.startup import StartupTimer, process_start_time

    began = process_start_time()
    timer = StartupTimer(began)
    parser = ArgumentParser(prog="python -m ozone.bench.startup_child", description=__doc__)
    add_engine_arguments(parser, model="both")
    args = engine_args(parser.parse_args(argv))

    from ozone.bench.engine_load import greedy
    from ozone.bench.resident import resident_bytes
    from ozone.entrypoints.assemble import load
    from ozone.entrypoints.streaming import stream
    from ozone.errors import RequestError

    loaded = load(args, timer=timer)
    try:
        first_token = None
        for delta in stream(loaded.engine, loaded.tokenizer.encode(PROMPT), greedy(1)):
            if delta.error is not None:
                raise RequestError(f"generation failed: {delta.error}")
            if delta.token_ids and first_token is None:
                first_token = time.monotonic() - began
    finally:
        loaded.engine.shutdown()
    report = {
        "first_token_seconds": first_token,
        "startup": loaded.startup.report(),
        "peak_resident_bytes": resident_bytes().get("peak"),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    from ozone.entrypoints.console import run_program

    sys.exit(run_program(main))
