"""Model families, one file each. `build_model` makes a structure without memory, `load_weights` fills it."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ozone.config.families import FAMILIES
from ozone.config.model import ModelConfig
from ozone.errors import ModelFileError
from ozone.layers.checkpoint import Checkpoint, LoadableLayer
from ozone.layers.linear import Linear
from ozone.layers.options import BuildOptions
from ozone.ops.choice import OpChoice
from ozone.ops.torch_threads import torch_threads
from ozone.quantization import Scheme, decoders, scheme_for
from ozone.weights.source import WeightSource

if TYPE_CHECKING:
    from ozone.models.causal_lm import CausalLM

logger = logging.getLogger(__name__)

# Bytes of a checkpoint after which what was read of it is taken off this process's memory.
_RELEASE_AFTER = 32 << 20


def build_model(
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    max_model_len: int,
    op: OpChoice | None = None,
    kv_cache_dtype: str = "auto",
    scheme: Scheme | None = None,
) -> CausalLM:
    """The model's structure, with all tensors on the meta device: no memory, no weights yet.

    `op` says which ops run as one node; by default, custom ops run as their references. `kv_cache_dtype` is
    the setting of that name. `scheme` says how weights are stored; by default the config's quantization does.

    Raises: `ModelFileError` for a family or a quantization scheme that Ozone does not have.
    """
    modules = {family.name: family.module for family in FAMILIES}
    if config.family not in modules:
        raise ModelFileError(f"model family {config.family!r} is not one of {', '.join(modules)}")
    module, _, attribute = modules[config.family].partition(":")
    family = cast("type[CausalLM]", getattr(importlib.import_module(module), attribute))
    op = op or OpChoice()
    scheme = scheme or scheme_for(config, op)
    options = BuildOptions(
        dtype, max_model_len, scheme.linear_method, scheme.table_method, op, kv_cache_dtype
    )
    with torch.device("meta"):
        return family(config, options).eval()


def load_weights(
    model: nn.Module,
    source: WeightSource,
    *,
    num_threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Fill every layer of `model` from `source`, the largest first.

    `progress` is called with (layers done, layers in all), from this thread.

    Raises: `ModelFileError` for a tensor that is missing or has a wrong shape or type. Tensors that no
    layer asks for are ignored.
    """
    checkpoint = Checkpoint(source, decoders())
    layers = [module for module in model.modules() if isinstance(module, LoadableLayer)]
    layers.sort(key=LoadableLayer.load_cost, reverse=True)
    # Layers load side by side, so an op that also forked would only get in the way of the others.
    with torch_threads(1), ThreadPoolExecutor(num_threads, thread_name_prefix="load") as pool:
        loads = [pool.submit(layer.load, checkpoint) for layer in layers]
        try:
            for done, load in enumerate(as_completed(loads), start=1):
                load.result()
                checkpoint.release(at_least=_RELEASE_AFTER)
                if progress is not None:
                    progress(done, len(layers))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    checkpoint.release()
    unused = checkpoint.unused()
    if unused:
        logger.debug("%s: %d tensors are not used by this model", source.path, len(unused))


def weight_bytes(model: nn.Module) -> int:
    """Bytes of everything that a loaded model keeps, counted once where it is shared."""
    return _bytes([model])


def step_weight_bytes(model: CausalLM) -> int:
    """Bytes of weights that a decode step of any batch reads: all linears and the output head. An embedding
    that is no head is a gather of one row a token.
    """
    linears = [module for module in model.modules() if isinstance(module, Linear)]
    return _bytes([*linears, model.lm_head])


def _bytes(modules: Iterable[nn.Module]) -> int:
    storages = (
        tensor.untyped_storage() for module in modules for tensor in (*module.parameters(), *module.buffers())
    )
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
