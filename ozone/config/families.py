"""The registry of model families: which checkpoints belong to which model file, as data.

One row per family. A new family is one file under `ozone/models/` and one row here. The row is
torch-free, so that the readers of `config.json` and of GGUF metadata can use it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What tells a family apart before its model file is imported.

    Attributes:
        name: the family's name in Ozone, for example ``"qwen3"``.
        hf_architectures: values of ``architectures[0]`` in a Hugging Face ``config.json``.
        gguf_architectures: values of ``general.architecture`` in a GGUF file.
        module: import path of the model class, ``"package.module:Class"``.
        gguf_permuted_qk: GGUF files of this family store the rows of q and k in interleaved
            rotary order and must be put back into the half-split order of Hugging Face.
        gguf_norm_offset: GGUF files of this family store norm weights with 1 added.
        qkv_bias: q, k and v projections have biases even where ``config.json`` does not say so.
        qk_norm: q and k are RMS-normalized per head before rotary embedding.
        norm_offset: RMS norms multiply by ``1 + weight``.
        scaled_embedding: embeddings are multiplied by ``sqrt(hidden_size)``.
        default_activation: the activation of the gate where the checkpoint does not name one.
        hf_model_types: values of ``model_type`` of a ``config.json`` without ``architectures``; the
            family's name where there are none here.
        overflows_float16: activations of its models leave the range of float16.
    """

    name: str
    hf_architectures: tuple[str, ...]
    gguf_architectures: tuple[str, ...]
    module: str
    gguf_permuted_qk: bool = False
    gguf_norm_offset: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_offset: bool = False
    scaled_embedding: bool = False
    default_activation: str = "silu"
    hf_model_types: tuple[str, ...] = ()
    overflows_float16: bool = False


FAMILIES: tuple[Family, ...] = (
    Family(
        "llama",
        ("LlamaForCausalLM",),
        ("llama",),
        "ozone.models.llama:LlamaForCausalLM",
        gguf_permuted_qk=True,
    ),
    Family("mistral", ("MistralForCausalLM",), (), "ozone.models.mistral:MistralForCausalLM"),
    Family(
        "qwen2",
        ("Qwen2ForCausalLM",),
        ("qwen2",),
        "ozone.models.qwen2:Qwen2ForCausalLM",
        qkv_bias=True,
    ),
    Family(
        "qwen3",
        ("Qwen3ForCausalLM",),
        ("qwen3",),
        "ozone.models.qwen3:Qwen3ForCausalLM",
        qk_norm=True,
    ),
    Family(
        "gemma3",
        ("Gemma3ForCausalLM",),
        ("gemma3",),
        "ozone.models.gemma3:Gemma3ForCausalLM",
        gguf_norm_offset=True,
        qk_norm=True,
        norm_offset=True,
        scaled_embedding=True,
        default_activation="gelu_pytorch_tanh",
        hf_model_types=("gemma3_text",),
        overflows_float16=True,
    ),
)


def overflows_float16(name: str) -> bool:
    """Whether the family of that name needs a wider type than float16."""
    return any(family.name == name and family.overflows_float16 for family in FAMILIES)
