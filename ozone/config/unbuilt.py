"""What the resolved config asks for that is not built yet, in one place. Later work deletes this file."""

from __future__ import annotations

from ozone.config.schema import OzoneConfig


def unstartable(config: OzoneConfig) -> str | None:
    """One line where `config` asks for what cannot be started at all, or None."""
    size = config.parallel.tensor_parallel_size
    if size > 1:
        return f"--tensor-parallel-size {size}: tensor parallelism is not built yet; only 1 works"
    return None
