"""What flows into a model's linears on a text: the model is run one layer at a time, so that only one layer's
weights take memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ozone.config.model import ModelConfig
from ozone.graphs.eager_runner import allocate_kv_caches
from ozone.layers.batch import BatchContext
from ozone.layers.checkpoint import Checkpoint, LoadableLayer
from ozone.layers.linear import Linear, LinearMethod
from ozone.models import build_model
from ozone.ops.choice import OpChoice
from ozone.quantization import decoders
from ozone.weights.source import WeightSource

_BLOCK_SIZE = 16


class Observer(Protocol):
    """Sees the inputs of one linear, (tokens, in_features) at a time."""

    def see(self, x: Tensor) -> None: ...


AnObserver = TypeVar("AnObserver", bound=Observer)


class LayerByLayer(Generic[AnObserver]):
    """A model that reads windows of tokens, all of them through one layer before the next.

    Args:
        config: of the model; its linears are run unquantized.
        source: its weights. What it hands out may change between layers.
        windows: token ids, each window a text of its own.
        observer: makes what observes a linear with that many columns.
    """

    def __init__(
        self,
        config: ModelConfig,
        source: WeightSource,
        windows: Sequence[Sequence[int]],
        observer: Callable[[int], AnObserver],
    ) -> None:
        config = replace(config, quantization=None)
        longest = max(map(len, windows))
        self._source = source
        self._observer = observer
        self._model = build_model(
            config, dtype=getattr(torch, config.dtype), max_model_len=longest, op=OpChoice(("all",))
        )
        blocks = -(-longest // _BLOCK_SIZE)
        # Layers run one after another, and windows too: one cache of one window serves them all.
        (cache,) = allocate_kv_caches(replace(config, num_layers=1), _BLOCK_SIZE, blocks, config.dtype)
        self._caches = [cache] * config.num_layers
        self._blocks = torch.arange(blocks, dtype=torch.int32)[None]
        embedding = self._model.embed_tokens
        self._load(embedding)
        with torch.inference_mode():
            self._hidden: list[tuple[Tensor, Tensor | None]] = [
                (embedding(torch.tensor(window)), None) for window in windows
            ]
        embedding.to("meta")

    def observe(self, index: int) -> dict[str, AnObserver]:
        """Run layer `index` and go on to the next; what was observed, by each linear's checkpoint name."""
        self._load(self._model.layers[index])
        observers: dict[str, AnObserver] = {}
        for module in self._model.layers[index].modules():
            if isinstance(module, Linear):
                observer = self._observer(module.in_features)
                module.method = _Observed(module.method, observer)
                observers |= dict.fromkeys(module.names, observer)
        self._after = self._run(index)
        return observers

    def advance(self, index: int, *, again: bool) -> None:
        """Leave layer `index`. `again`: its weights have changed, so it is run anew, unobserved."""
        layer = self._model.layers[index]
        if again:
            for module in layer.modules():
                if isinstance(module, Linear) and isinstance(module.method, _Observed):
                    module.method = module.method.inner
            self._load(layer)
            self._after = self._run(index)
        self._hidden = self._after
        layer.to("meta")

    def _load(self, module: nn.Module) -> None:
        checkpoint = Checkpoint(self._source, decoders())
        for part in module.modules():
            if isinstance(part, LoadableLayer):
                part.load(checkpoint)

    @torch.inference_mode()
    def _run(self, index: int) -> list[tuple[Tensor, Tensor | None]]:
        layer = self._model.layers[index]
        return [
            layer(hidden, residual, torch.arange(len(hidden)), self._batch(len(hidden)))
            for hidden, residual in self._hidden
        ]

    def _batch(self, tokens: int) -> BatchContext:
        return BatchContext(
            slot_mapping=torch.arange(tokens),
            block_tables=self._blocks,
            query_start_loc=torch.tensor([0, tokens], dtype=torch.int32),
            seq_lens=torch.tensor([tokens], dtype=torch.int32),
            kv_caches=self._caches,
        )


class _Observed:
    """A linear's method, with somebody watching its inputs."""

    def __init__(self, inner: LinearMethod, observer: Observer) -> None:
        self.inner = inner
        self._observer = observer

    def create(self, layer: Linear) -> None:
        self.inner.create(layer)

    def load(self, layer: Linear, checkpoint: Checkpoint) -> None:
        self.inner.load(layer, checkpoint)

    def apply(self, layer: Linear, x: Tensor, residual: Tensor | None = None) -> Tensor:
        self._observer.see(x)
        return self.inner.apply(layer, x, residual)
