"""The process that compiles a step for another one: `python -m ozone.compilation.compile_child`.

It imports what tracing needs, then reads a step on stdin and writes an artifact on stdout.
"""

from __future__ import annotations

import os
import sys

from ozone.compilation.artifact_file import pack
from ozone.compilation.scratch import provide_scratch
from ozone.parent import end_with_parent


def main() -> None:
    """Compile one step."""
    end_with_parent()
    provide_scratch(None)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed stays out of the answer
    import torch

    torch.set_num_threads(1)
    import torch._dynamo.convert_frame  # while the other process loads weights
    import torch.fx.experimental.proxy_tensor

    import ozone.models  # noqa: F401
    from ozone.compilation.artifacts import encode
    from ozone.compilation.compiler import compile_step
    from ozone.compilation.failures import ForeignOpError
    from ozone.compilation.handover import loads
    from ozone.errors import OzoneError

    content = sys.stdin.buffer.read()
    if not content:  # it was not needed
        return
    step, inputs, config, capacity = loads(content)
    try:
        ranges = compile_step(step, inputs, config, capacity)
    except ForeignOpError as error:
        answer = pack({"foreign": [error.name, error.where]}, [])
    except OzoneError as error:
        answer = pack({"problem": str(error)}, [])
    else:
        tensors = {**dict(step.constants()), **inputs._asdict()}
        span_bytes = {name: x.untyped_storage().nbytes() for name, x in tensors.items()}
        answer = encode({}, "", ranges, span_bytes)
    with output:
        output.write(answer)


if __name__ == "__main__":
    main()
