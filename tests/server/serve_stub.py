"""A program that serves the stub until a signal: ``serve_stub.py STEP_SECONDS [server flags]``.

When it is done it reports which heavy modules it has loaded.
"""

import argparse
import logging
import sys

from server_stubs import make_state

from ozone.errors import OzoneError
from ozone.server.flags import add_server_arguments, server_settings
from ozone.server.run import run_server

parser = argparse.ArgumentParser()
parser.add_argument("delay", type=float)
add_server_arguments(parser)
arguments = parser.parse_args()
logging.basicConfig(level=logging.INFO)
try:
    state = make_state(settings=server_settings(arguments), max_model_len=4096)
    state.engine.runner.delay = arguments.delay
    run_server(state)
except OzoneError as error:
    print(f"ozone: error: {error}", file=sys.stderr)
    sys.exit(2)
print("heavy modules:", sorted({"torch", "transformers"} & sys.modules.keys()), flush=True)
