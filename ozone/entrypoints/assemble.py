"""From engine arguments to a running engine: the one place that knows every room.

The server, `LLM` and the command line all start here. Torch is imported in a thread of its own while
configuration, tokenizer and weight files are read, since that import is the longest phase of a start.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ozone.compilation.compile_process import CompileProcess, remember, start_if_it_pays
from ozone.compilation.debug_dump.directory import DumpDirectory, dump_path
from ozone.compilation.scratch import provide_scratch
from ozone.config.args import EngineArgs
from ozone.config.resolve import resolve
from ozone.config.schema import CompilationMode, OzoneConfig
from ozone.config.upstream import nearest
from ozone.engine.end_tokens import gguf_end_tokens, template_end_token
from ozone.engine.engine import Engine
from ozone.engine.sampling_params import SamplingParams
from ozone.entrypoints.progress import progress
from ozone.entrypoints.startup import StartupTimer
from ozone.errors import ConfigError, ModelFileError, RequestError, shown
from ozone.native import platform_facts
from ozone.weights.model_files import ModelFiles, open_model_of

if TYPE_CHECKING:
    from ozone.compilation.artifacts import Programs
    from ozone.compilation.tuning.tuner import Tuning
    from ozone.engine.chat_template import ChatTemplate
    from ozone.engine.tokenizer import Tokenizer
    from ozone.graphs.eager_runner import EagerRunner

logger = logging.getLogger("ozone")

# Sampling defaults that a generation_config.json may set, under its names and ours.
_GENERATION_DEFAULTS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}

_MAX_GENERATION_CONFIG_CHARACTERS = 1 << 20
_NOT_BUILT = (
    "the native library is not built, so every op runs in plain PyTorch: slower, and quantized weights take "
    "more memory; `make install` builds it"
)
# About 0.1 ms: the gap between two products of a step is shorter, a pause between steps is longer.
_SPIN_COUNT = "10000"
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@dataclass(frozen=True)
class MemoryUse:
    """What a loaded model takes of memory, in bytes.

    Attributes:
        weights: as they are kept, with all that is computed from them at load.
        step_weights: what of them a decode step reads.
        kv_cache: the whole cache. It becomes resident as its blocks are first used.
        kv_token: of the cache, for one token.
        graph_pool: what values between the launches of a program lie in. It becomes resident as batches grow;
            0 where nothing is compiled or captured.
    """

    weights: int
    step_weights: int
    kv_cache: int
    kv_token: int
    graph_pool: int

    def line(self) -> str:
        return (
            f"memory: weights {self.weights / 1e6:.1f} MB, KV cache up to {self.kv_cache / 1e6:.1f} MB "
            f"({self.kv_token} bytes a token)"
            + (f", graph pool up to {self.graph_pool / 1e6:.1f} MB" if self.graph_pool else "")
        )


@dataclass
class LoadedModel:
    """A model that answers: its engine and everything around it that interfaces need."""

    config: OzoneConfig
    engine: Engine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    default_sampling: dict[str, Any]
    startup: StartupTimer
    memory: MemoryUse
    programs: Programs | None  # None where the model was not compiled to programs
    tuning: Tuning | None  # None where kernels take their default ways

    def default_sampling_params(self, **changes: Any) -> SamplingParams:
        """Sampling parameters with the generation config's defaults, then `changes`."""
        return SamplingParams(**{**self.default_sampling, **changes})

    def encode_chat(self, messages: list[dict[str, Any]]) -> list[int]:
        """Token ids of a conversation rendered with the chat template, ready for the reply."""
        if self.chat_template is None:
            raise RequestError("the model has no chat template; give one with --chat-template")
        text = self.chat_template.render(messages, add_generation_prompt=True)
        return self.tokenizer.encode(text, add_special_tokens=False)


class _Background:
    """A call in a thread, whose result or exception `wait` hands over."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def wait(self) -> Any:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result


def share_heap() -> None:
    """Let all threads allocate from one heap of glibc: what one has freed, another can use.

    A heap for each thread, the default, kept 40 MB more resident: docs/decisions/0008. Where the C library is
    another, nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Let large blocks come from the heap of glibc too, and the heap keep what they leave: for work that
    frees and asks for hundreds of megabytes again and again, which the system would clear each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give back to the system what the heap of glibc holds unused: much of it after weights were packed.

    The heap gives back by itself only what lies at its end.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def limit_torch_spinning() -> None:
    """Before torch is imported: set how long its threads spin between products, docs/decisions/0004."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def _import_torch_side(timer: StartupTimer) -> None:
    limit_torch_spinning()
    with timer.phase("import torch"):
        import torch  # noqa: F401
    with timer.phase("import models"):
        import ozone.graphs.eager_runner
        import ozone.models  # noqa: F401


def load(
    args: EngineArgs,
    *,
    timer: StartupTimer | None = None,
    meanwhile: Callable[[], object] | None = None,
    compile_apart: bool = False,
) -> LoadedModel:
    """Open, resolve, load and start.

    Args:
        meanwhile: is called while torch is being imported, for work that needs neither of the two.
        compile_apart: make programs, where they are not kept, in a process of its own: for those who stay,
            who need less memory for it, and wait longer (docs/decisions/0013).

    Raises: `OzoneError` for anything that the user or the model's files got wrong.
    """
    timer = timer or StartupTimer()
    timer.mark("imports")
    share_heap()
    fresh = "torch" not in sys.modules
    torch_side = _Background(lambda: _import_torch_side(timer))
    with timer.phase("model files"):
        files = open_model_of(args, with_tokenizer=True)
    with timer.phase("config"):
        platform = platform_facts()
        config = resolve(args, files.config, platform)
    if (dump := dump_path(config)) is not None:
        DumpDirectory(dump)  # where it cannot be written, the user shall not wait to hear it
    if not platform.native:
        logger.warning(_NOT_BUILT)
    for notice in config.notices:
        logger.warning("%s", notice)
    # Where torch is imported already, so may Dynamo be, and this process is done sooner than another.
    process = None
    if config.compilation.mode != CompilationMode.NONE:
        provide_scratch(Path(config.compilation.cache_dir))
    if fresh and compile_apart:
        process = start_if_it_pays(config, native=platform.native, cores=platform.num_cores)
    with process or contextlib.nullcontext():
        return _load(files, config, timer, torch_side, meanwhile, process, native=platform.native)


def _load(
    files: ModelFiles,
    config: OzoneConfig,
    timer: StartupTimer,
    torch_side: _Background,
    meanwhile: Callable[[], object] | None,
    process: CompileProcess | None,
    *,
    native: bool,
) -> LoadedModel:
    with timer.phase("tokenizer"):
        tokenizer = tokenizer_of(files, config)
    with timer.phase("chat template"):
        chat_template = _chat_template(files, tokenizer, config.model.chat_template)
    generation = {
        **_generation_config(files, config.model.generation_config),
        **_known_defaults(config.model.override_generation_config),
    }
    default_sampling = _default_sampling(generation)
    if meanwhile is not None:
        meanwhile()
    torch_side.wait()
    runner, memory = _build_runner(files, config, timer, process, native=native)
    return_freed_memory()
    engine = Engine(
        runner,
        tokenizer,
        cache=config.cache,
        scheduler=config.scheduler,
        max_model_len=config.model.max_model_len,
        eos_token_ids=end_token_ids(files, tokenizer, generation, chat_template),
        max_logprobs=config.model.max_logprobs,
        seed=config.model.seed,
    )
    engine.start()
    timer.ready()
    programs = getattr(runner, "programs", None)
    if process is not None and programs is not None and programs.kept is not None:
        remember(config, programs.kept)
    return LoadedModel(
        config, engine, tokenizer, chat_template, default_sampling, timer, memory, programs, runner.tuning
    )


def tokenizer_of(files: ModelFiles, config: OzoneConfig) -> Tokenizer:
    """The tokenizer of a model's files, or of the cache where it had to be rebuilt. Needs no torch."""
    from ozone.engine.tokenizer import load_tokenizer

    return load_tokenizer(
        tokenizer_json=files.tokenizer_json,
        gguf_metadata=files.gguf_metadata,
        tokenizer_config=files.tokenizer_config,
        cache_dir=Path(config.compilation.cache_dir) / "tokenizers",
    )


def _build_runner(
    files: ModelFiles,
    config: OzoneConfig,
    timer: StartupTimer,
    process: CompileProcess | None,
    *,
    native: bool,
) -> tuple[EagerRunner, MemoryUse]:
    import torch

    from ozone.graphs.choose import make_runner
    from ozone.models import build_model, load_weights, step_weight_bytes, weight_bytes
    from ozone.ops.choice import OpChoice

    with timer.phase("model"):
        model = build_model(
            files.config,
            dtype=getattr(torch, config.model.dtype),
            max_model_len=config.model.max_model_len,
            op=OpChoice(
                config.compilation.custom_ops,
                compiled=config.compilation.mode != CompilationMode.NONE,
            ),
            kv_cache_dtype=config.cache.kv_cache_dtype,
        )
    with timer.phase("weights"), progress("Loading weights", " layers") as report:
        load_weights(model, files.open_weights(), num_threads=config.parallel.num_threads, progress=report)
    runner = make_runner(
        model,
        files.config,
        config,
        native=native,
        phase=timer.phase,
        progress=lambda: progress("Compiling", " pieces"),
        tuning_progress=lambda: progress("Tuning", " row counts"),
        process=process,
    )
    kv_bytes = runner.kv_cache_bytes
    tokens = runner.num_blocks * runner.block_size
    memory = MemoryUse(
        weight_bytes(model), step_weight_bytes(model), kv_bytes, kv_bytes // tokens, runner.graph_pool_bytes
    )
    return runner, memory


def _generation_config(files: ModelFiles, choice: str) -> Mapping[str, Any]:
    """`--generation-config`: ``auto`` (the model's own), ``vllm`` (none), or a folder or file."""
    if choice == "auto":
        return files.generation_config
    if choice == "vllm":
        return {}
    path = Path(choice)
    path = path / "generation_config.json" if path.is_dir() else path
    try:
        with path.open(encoding="utf-8") as file:
            content = json.loads(file.read(_MAX_GENERATION_CONFIG_CHARACTERS))
    except OSError as error:
        raise ConfigError(
            f"--generation-config {choice}: {error.strerror or error}; give auto, vllm, or a folder that "
            "holds generation_config.json"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: must hold a JSON object")
    return content


def _known_defaults(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """`--override-generation-config`; `ConfigError` for a name that sets nothing."""
    known = (*_GENERATION_DEFAULTS, "eos_token_id")
    for name in given:
        if name not in known:
            hint = nearest(name, known, f"; there are {', '.join(known)}")
            raise ConfigError(f"--override-generation-config: nothing is set by {shown(name)}{hint}")
    return given


def end_token_ids(
    files: ModelFiles, tokenizer: Tokenizer, generation: Mapping[str, Any], template: ChatTemplate | None
) -> set[int]:
    """The tokens that end a text: as config, tokenizer and generation config say, and as they are known."""
    listed = generation.get("eos_token_id")
    candidates = [
        *files.config.eos_token_ids,
        tokenizer.eos_token_id,
        *(listed if isinstance(listed, list) else [listed]),
    ]
    ids = {token for token in candidates if isinstance(token, int) and not isinstance(token, bool)}
    known = {token for token in ids if 0 <= token < files.config.vocab_size}
    if known != ids:
        logger.warning(
            "%s: end-of-sequence ids outside the vocabulary are ignored: %s", files.path, ids - known
        )
    if files.gguf_metadata is not None:
        known |= gguf_end_tokens(tokenizer, files.gguf_metadata)
    if template is not None and (token := template_end_token(tokenizer, template)) is not None:
        known.add(token)
    return known


def _default_sampling(generation: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        ours: generation[theirs]
        for theirs, ours in _GENERATION_DEFAULTS.items()
        if generation.get(theirs) is not None
    }
    SamplingParams(**found)  # a bad default should stop the start, not every later request
    return found


def _chat_template(files: ModelFiles, tokenizer: Tokenizer, argument: str | None) -> ChatTemplate | None:
    from ozone.engine.chat_template import ChatTemplate, read_chat_template

    source = files.chat_template if argument is None else read_chat_template(argument)
    if source is None:
        return None
    template = ChatTemplate(source, **tokenizer.special_tokens)
    template.validate()
    return template
