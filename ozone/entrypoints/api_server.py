"""The HTTP server as a program: ``python -m ozone.entrypoints.api_server`` equals ``ozone serve``."""

from __future__ import annotations

import gc
import importlib
import logging
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ozone.server.state import ServerState

logger = logging.getLogger("ozone")

# The longest that a prompt of somebody else should hold up a running stream, in seconds.
STEP_SECONDS = 0.25


def main(argv: list[str] | None = None) -> int:
    """Load the model that `argv` names and serve it until a signal; returns the exit code."""
    # Next to nothing of a start is garbage, and full collections take 0.1 to 0.2 s of it.
    gc.disable()
    try:
        state, listener = _start(sys.argv[1:] if argv is None else argv)
        if "torch._dynamo" in sys.modules:  # this process has traced the model, which leaves much behind
            gc.collect()
        # What is there now stays. A full collection that looked at all of it held every request up for 0.1 s.
        gc.freeze()
    finally:
        gc.enable()
    from ozone.server.run import run_server

    run_server(state, listener)
    return 0


def _start(argv: list[str]) -> tuple[ServerState, socket.socket]:
    """All that happens before requests are answered."""
    from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
    from ozone.entrypoints.startup import StartupTimer, process_start_time
    from ozone.parent import end_with_parent
    from ozone.server.flags import add_server_arguments, server_settings, warn_of_empty_keys
    from ozone.server.listener import bind
    from ozone.server.logs import start_server_logging

    end_with_parent()
    timer = StartupTimer(process_start_time())
    parser = ArgumentParser(
        prog="ozone serve",
        description="Serve a model over an OpenAI-compatible HTTP API. "
        "Without MODEL the embedded default is served.",
    )
    add_engine_arguments(parser, model="both")
    add_server_arguments(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show every phase of the start")
    namespace = parser.parse_args(argv)
    settings = server_settings(namespace)
    start_server_logging(settings)
    warn_of_empty_keys(settings)

    args = engine_args(namespace)
    if settings.ssl_certfile or settings.ssl_refresh:
        from ozone.server.tls import check_tls

        check_tls(settings)  # nobody should wait for a model to hear of a wrong file
    listener = bind(settings)

    from ozone.entrypoints.assemble import load
    from ozone.entrypoints.serving import server_state

    def import_server() -> None:
        with timer.phase("import server"):
            importlib.import_module("ozone.server.run")

    loaded = load(args, timer=timer, meanwhile=import_server, compile_apart=True)
    if namespace.verbose:
        print(timer.table(), file=sys.stderr, flush=True)
    else:
        logger.info(timer.line())
    logger.info(loaded.memory.line())
    loaded.engine.limit_steps(STEP_SECONDS)
    return server_state(loaded, settings), listener


if __name__ == "__main__":
    from ozone.entrypoints.console import run_program

    sys.exit(run_program(main))
