"""Libraries: code that AOTInductor generates for a graph, compiled, kept, and loaded without Inductor.

A library takes tensors and returns tensors; the weights that it works on are among its arguments. The ops of
our own vocabulary are in none: they run between libraries.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from ozone.compilation.artifact_file import DamagedArtifactError, pack, unpack
from ozone.compilation.artifact_store import ArtifactStore, reason
from ozone.compilation.pieces import fingerprint
from ozone.errors import CompileError, ConfigError
from ozone.platforms import cpu

logger = logging.getLogger("ozone")

ROOM = "libraries"

Function = Callable[[list[Tensor]], list[Tensor]]

_COMPILERS = ("g++", "clang++", "c++")
# The wrapper around the kernels is most of what there is to compile, and little of what runs.
_OPTIONS: Mapping[str, Any] = {
    "aot_inductor.compile_wrapper_opt_level": "O0",
    "aot_inductor.enable_line_tables": False,
}


def library_parts(options: Mapping[str, Any], num_threads: int) -> dict[str, Any]:
    """All that a library depends on but its graph.

    Not in it: the compiler, since where a library is kept, none is needed.
    """
    return {
        "torch": [torch.__version__, torch.version.git_version],
        "isa": torch.backends.cpu.get_cpu_capability(),
        "cpu": cpu.fingerprint(),  # g++ is told -march=native
        "threads": num_threads,  # a number in the generated code
        "options": {**_OPTIONS, **options},
    }


class Libraries:
    """Libraries by their keys: each is compiled once, and kept where there is a store."""

    def __init__(
        self,
        options: Mapping[str, Any],
        num_threads: int,
        store: ArtifactStore | None,
        *,
        load: bool = True,
    ) -> None:
        """
        Args:
            options: Inductor's, from the user.
            store: where they are kept. None: nowhere.
            load: whether what is kept may be used.
        """
        self._options = {**_OPTIONS, **options}
        self._parts = library_parts(options, num_threads)
        self._store, self._load = store, load
        self._loaded: dict[str, Function] = {}

    def key(self, graph: fx.Graph, known: Mapping[str, int]) -> str:
        """The key of the library of a graph; `known`: as in `compile`."""
        parts = {**self._parts, "graph": fingerprint(graph.nodes), "known": dict(known)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def find(self, key: str, *, warn: bool = True) -> Function | None:
        """A library that is loaded or kept; `warn` says so where there is one that cannot be used."""
        if key not in self._loaded and self._store is not None and self._load:
            try:
                content = self._store.read(key)
                if content is not None:
                    self._loaded[key] = load_library(_code(content, key))
            except (OSError, DamagedArtifactError) as error:
                if warn:
                    file = self._store.file(key)
                    logger.warning("%s is compiled anew, it cannot be used: %s", file, reason(error))
        return self._loaded.get(key)

    def __getitem__(self, key: str) -> Function:
        """A library that `find` has found or `compile` has made."""
        return self._loaded[key]

    def compile(
        self, key: str, module: fx.GraphModule, examples: Sequence[Tensor], known: Mapping[str, int]
    ) -> str:
        """Make the library of `key`, and keep it.

        Args:
            examples: one tensor for each placeholder.
            known: sizes that do not vary, by their symbols: the library is for them alone.

        Returns: the source code of its kernels.

        Raises: `ConfigError` without a C++ compiler, `CompileError` for ops that need more than a library,
            Inductor's own exceptions.
        """
        check_compiler("generating code")
        # Inductor takes the module apart.
        ops = sorted({str(node.target) for node in module.graph.nodes if node.op == "call_function"})
        code, source = _compiled(module, examples, known, self._options)
        self._loaded[key] = load_library(code)
        if self._store is None:
            return source
        try:
            header = {"key": key, "made": time.time(), "ops": ops, "key_parts": self._parts}
            self._store.write(key, pack(header, [code]))
        except OSError as error:
            logger.warning("generated code is not cached: %s: %s", self._store.path, reason(error))
        return source


def check_compiler(asked_by: str, instead: str = "-cc.custom_ops=all") -> None:
    """Raises: `ConfigError` where there is no C++ compiler. `asked_by` names what needs it, `instead` a
    setting that does not.
    """
    if not any(map(shutil.which, _COMPILERS)):
        raise ConfigError(
            f"{asked_by} needs Inductor, which needs a C++ compiler, and there is none: install g++, "
            f"or set -cc.backend=eager or {instead}"
        )


def load_library(code: bytes) -> Function:
    """The function in a library, which is loaded from memory: what was checked is what runs.

    Raises: `DamagedArtifactError` where it is no library that this process can load.
    """
    # The loader knows what it has loaded by its path, so the file stays open as long as the process lives.
    file = os.memfd_create("ozone-library", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(file), "wb") as opened:
            opened.write(code)
        runner = torch._C._aoti.AOTIModelContainerRunnerCpu(f"/proc/self/fd/{file}", 1)
    except (OSError, RuntimeError) as error:
        os.close(file)
        raise DamagedArtifactError(str(error).splitlines()[0]) from None
    function: Function = runner.run
    return function


def _code(content: bytes, key: str) -> bytes:
    header, blobs = unpack(content)
    if header.get("key") != key or len(blobs) != 1:
        raise DamagedArtifactError("it is another one's")
    return blobs[0]


def _compiled(
    module: fx.GraphModule, examples: Sequence[Tensor], known: Mapping[str, int], options: Mapping[str, Any]
) -> tuple[bytes, str]:
    """A library, and the source code of its kernels."""
    from torch._inductor.compile_fx import compile_fx_aot

    for node in module.graph.find_nodes(op="placeholder"):
        node.meta["val"] = _of_known_size(node.meta["val"], known)
    with tempfile.TemporaryDirectory(prefix="ozone-") as directory, torch.no_grad():
        path = Path(directory) / "library.so"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about what torch itself does
            compile_fx_aot(
                module, list(examples), config_patches={**options, "aot_inductor.output_path": str(path)}
            )
        # A library that calls ops has a description of them beside it.
        if any(not file.name.endswith("_metadata.json") for file in path.parent.glob("*.json")):
            raise CompileError(
                "Inductor generates no code for some of its ops; -cc.backend=eager runs them as they are"
            )
        sources = sorted(path.parent.glob("*.kernel.cpp"))
        return path.read_bytes(), "\n".join(source.read_text() for source in sources)


def _of_known_size(value: Any, known: Mapping[str, int]) -> Any:
    """A traced value with numbers in place of the sizes that are known."""
    if not isinstance(value, Tensor) or not known:
        return value
    mode: Any = value.fake_mode  # type: ignore[attr-defined]

    def size(n: int) -> int:
        return known.get(str(n), n)

    with mode:
        return torch.empty_strided(
            [size(n) for n in value.shape], [size(n) for n in value.stride()], dtype=value.dtype
        )
