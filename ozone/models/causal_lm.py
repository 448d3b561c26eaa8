"""What every decoder-only language model shares: embed, run the layers, normalize, score.

A family's file says what one of its layers is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from ozone.config.model import ModelConfig
from ozone.layers.batch import BatchContext
from ozone.layers.embedding import Embedding, LMHead
from ozone.layers.norm import RMSNorm
from ozone.layers.options import BuildOptions


class DecoderLayer(nn.Module):
    """One layer. Its output and the residual stream that it is still to be added to leave it side by side:
    the sum is left to the next norm, so that both can be one op.
    """

    @abstractmethod
    def forward(
        self, hidden: Tensor, residual: Tensor | None, positions: Tensor, batch: BatchContext
    ) -> tuple[Tensor, Tensor]:
        """(tokens, hidden_size) twice -> the same; `residual` is None before the first layer."""


class CausalLM(nn.Module):
    """Token ids to hidden states, and hidden states to logits."""

    def __init__(self, config: ModelConfig, options: BuildOptions) -> None:
        super().__init__()
        self.config = config
        tied = config.tie_word_embeddings
        self.embed_tokens = self._table("model.embed_tokens", options, config.embedding_scale, scored=tied)
        self.layers = nn.ModuleList(self.build_layers(config, options))
        size, eps = config.hidden_size, config.rms_norm_eps
        self.norm = RMSNorm("model.norm", size, eps, options, offset=config.norm_offset)
        table = self.embed_tokens if tied else self._table("lm_head", options)
        self.lm_head = LMHead(table, config.logit_softcap)

    def _table(
        self, name: str, options: BuildOptions, scale: float = 1.0, *, scored: bool = True
    ) -> Embedding:
        rows, columns = self.config.vocab_size, self.config.hidden_size
        method = options.table_method(name)
        return Embedding(name, rows, columns, dtype=options.dtype, method=method, scale=scale, scored=scored)

    @abstractmethod
    def build_layers(self, config: ModelConfig, options: BuildOptions) -> Sequence[DecoderLayer]:
        """The decoder layers of this family, first to last."""

    def forward(self, token_ids: Tensor, positions: Tensor, batch: BatchContext) -> Tensor:
        """
        Args:
            token_ids, positions: (tokens,) integers, the requests of the batch one after another.

        Returns: (tokens, hidden_size) normalized hidden states, in the model's type.
        """
        hidden, residual = self.embed_tokens(token_ids), None
        for layer in self.layers:
            hidden, residual = layer(hidden, residual, positions, batch)
        normalized: Tensor = self.norm(hidden, residual)[0]
        return normalized

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """(rows, hidden_size) -> (rows, vocab_size) float32."""
        scores: Tensor = self.lm_head(hidden)
        return scores
