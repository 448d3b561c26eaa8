"""What a machine can do, as plain facts. Detection lives in `ozone/platforms/`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlatformFacts:
    """Facts that resolution of settings may depend on.

    Attributes:
        name: ``"cpu"``.
        cpu_model: the processor's name as the system gives it.
        isa: best instruction set that Ozone would use: ``portable``, ``avx2``, ``avx512`` or ``amx``.
        num_cores: cores this process may use (affinity and cgroup quota, rounded down, at least 1).
        memory_bytes: memory this process may use (cgroup limit or the machine's), in bytes.
        available_bytes: the part of it that is free now, in bytes.
        native: the native library is built and loads.
        kernels: names of ops that have a native kernel here.
    """

    name: str
    cpu_model: str
    isa: str
    num_cores: int
    memory_bytes: int
    available_bytes: int
    native: bool = False
    kernels: frozenset[str] = frozenset()
