"""vLLM's usual module path for the server; the program is `ozone.entrypoints.api_server`."""

from __future__ import annotations

import sys

from ozone.entrypoints.api_server import main

if __name__ == "__main__":
    from ozone.entrypoints.console import run_program

    sys.exit(run_program(main))
