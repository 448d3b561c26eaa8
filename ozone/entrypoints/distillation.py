"""What rounding took, given back: scales of 4-bit groups and weights of norms learn to predict what the
unquantized model predicts (Hinton et al., 2015, arXiv:1503.02531), while all integers stay as they are. Few
numbers learn, so that a short text is enough (as in EfficientQAT: Chen et al., 2024, arXiv:2407.11062).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ozone.config.model import ModelConfig
from ozone.layers.attention import Attention
from ozone.layers.batch import BatchContext
from ozone.layers.checkpoint import Checkpoint, LoadableLayer
from ozone.layers.linear import Linear
from ozone.layers.norm import RMSNorm
from ozone.models import build_model
from ozone.models.causal_lm import CausalLM
from ozone.ops.choice import OpChoice
from ozone.quantization import decoders
from ozone.quantization.learned_scales import DifferentiableScheme, IntegerMatrix, LearnedScales
from ozone.weights.source import WeightSource

_RATE = 2e-3  # of Adam, relative to what learns
_WARM_UP = 10  # steps over which the rate rises, before it falls as a cosine does
# Gradients of texts differ much, and steps are few.
_BETAS = (0.9, 0.99)

# A window is all there is: nothing is read of this.
_NOTHING = torch.empty(0, dtype=torch.int32)
_NO_BATCH = BatchContext(_NOTHING, _NOTHING, _NOTHING, _NOTHING, kv_caches=())


def distill(
    config: ModelConfig,
    source: WeightSource,
    matrices: Mapping[str, IntegerMatrix],
    windows: Sequence[Sequence[int]],
    steps: int,
    progress: Callable[[int], None],
) -> dict[str, Tensor]:
    """What `matrices` and norms have learned: the scales of each matrix and the weight of each norm, as
    checkpoints hold them, by checkpoint name; norms in float32.

    Args:
        config: of the unquantized model.
        source: its weights.
        matrices: quantized linears, by checkpoint name.
        windows: token ids, one window a step, each a text of its own.
        progress: called with the steps that are done.
    """
    longest = max(map(len, windows))
    teacher = _model(config, source, {}, longest)
    student = _model(config, source, matrices, longest)
    norms = [module for module in student.modules() if isinstance(module, RMSNorm)]
    scales = [module for module in student.modules() if isinstance(module, LearnedScales)]
    groups = [{"params": [norm.weight], "lr": _RATE * float(norm.weight.abs().mean())} for norm in norms]
    groups.append({"params": [part.logarithms for part in scales], "lr": _RATE})
    for norm in norms:
        norm.weight.requires_grad_(True)
    optimizer = torch.optim.Adam(groups, betas=_BETAS, eps=1e-12)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, steps))
    order = torch.Generator().manual_seed(0)
    waiting: list[int] = []
    for step in range(steps):
        waiting = waiting or torch.randperm(len(windows), generator=order).tolist()
        tokens = torch.tensor(windows[waiting.pop()])
        with torch.no_grad():
            expected = _log_probabilities(teacher, tokens)
        loss = functional.kl_div(
            _log_probabilities(student, tokens), expected, log_target=True, reduction="batchmean"
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        progress(step + 1)
    learned = {f"{norm.name}.weight": norm.weight.detach() - float(norm.offset) for norm in norms}
    for module in student.modules():
        if isinstance(module, Linear):
            for name, part in zip(module.names, module.parts, strict=True):
                if isinstance(part, LearnedScales):
                    learned[f"{name}.weight_scale"] = part.kept()
    return learned


def _share_of_rate(step: int, steps: int) -> float:
    return min((step + 1) / _WARM_UP, 1.0) * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def _log_probabilities(model: CausalLM, tokens: Tensor) -> Tensor:
    """(tokens, vocabulary) float32, of the token after each."""
    hidden = model(tokens, torch.arange(len(tokens)), _NO_BATCH)
    return model.compute_logits(hidden).log_softmax(-1)


def _model(
    config: ModelConfig, source: WeightSource, matrices: Mapping[str, IntegerMatrix], longest: int
) -> CausalLM:
    """The model with gradients through all of it, its linears `matrices` where they are named there."""
    model = build_model(
        config,
        dtype=torch.bfloat16,
        max_model_len=longest,
        op=OpChoice(("none",)),
        scheme=DifferentiableScheme(matrices),
    )
    checkpoint = Checkpoint(source, decoders())
    for module in list(model.modules()):
        if isinstance(module, LoadableLayer):
            module.load(checkpoint)
        for name, child in module.named_children():
            if isinstance(child, Attention):
                setattr(module, name, _DenseAttention(child))
    checkpoint.release()
    return model


class _DenseAttention(nn.Module):
    """Causal attention of a window over itself, without a cache."""

    def __init__(self, paged: Attention) -> None:
        super().__init__()
        self._scale, self._window, self._softcap = paged.scale, paged.window, paged.softcap

    def forward(self, q: Tensor, k: Tensor, v: Tensor, batch: BatchContext) -> Tensor:  # noqa: ARG002
        """(tokens, heads, head_dim), and fewer heads for k and v -> (tokens, heads * head_dim)."""
        tokens, heads, _ = q.shape
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        k, v = (x.repeat_interleave(heads // len(x), 0) for x in (k, v))
        scores = (q @ k.transpose(1, 2)).to(torch.float32) * self._scale
        if self._softcap is not None:
            scores = self._softcap * (scores / self._softcap).tanh()
        seen = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        if self._window is not None:
            seen = seen.triu(1 - self._window)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).to(v.dtype)
        return (weights @ v).transpose(0, 1).flatten(1)
