"""The key of an artifact: the same for the same programs, another one for whatever changes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compiled_case import Case, make_case

from ozone.compilation import artifact_key
from ozone.compilation.artifact_key import key_of, key_parts
from ozone.compilation.compiler import compile_step
from ozone.compilation.described import UndescribableError
from ozone.config.schema import CUDAGraphMode, PassConfig
from ozone.native import library
from ozone.ops.registry import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="programs need the native library")


def key(case: Case) -> str:
    return key_of(key_parts(*case))


def with_settings(case: Case, **changes: Any) -> Case:
    return case._replace(config=replace(case.config, **changes))


def test_the_same_model_loaded_again_has_the_same_key(tiny_model: Path) -> None:
    assert key(make_case(tiny_model)) == key(make_case(tiny_model))


MODEL_CHANGES: list[dict[str, Any]] = [
    {"dtype": "bfloat16"},
    {"cache_dtype": "bfloat16"},
    {"cache_dtype": "int8"},
    {"block_size": 32},
    {"max_model_len": 128},
    {"tokens": 48},
    {"requests": 5},
]


def test_whatever_changes_shapes_and_types_changes_the_key(tiny_model: Path) -> None:
    keys = [key(make_case(tiny_model, **changes)) for changes in ({}, *MODEL_CHANGES)]
    assert len(set(keys)) == len(keys)


SETTINGS: list[dict[str, Any]] = [
    {"custom_ops": ("all", "-rms_norm")},
    {"splitting_ops": ()},
    {"compile_ranges_endpoints": (16, 32)},
    {"compile_sizes": (1,)},
    {"pass_config": PassConfig(fuse_norm_quant=True)},
    {"pass_config": PassConfig(rope_kvcache_fusion_max_token_num=256)},
    {"backend": "eager"},
    {"inductor_compile_config": {"max_autotune": True}},
]


def test_settings_that_decide_programs_change_the_key(case: Case) -> None:
    keys = [key(with_settings(case, **changes)) for changes in ({}, *SETTINGS)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "changes",
    [
        {"cache_dir": "/elsewhere"},
        {"debug_dump_path": "/dump"},
        {"cudagraph_mode": CUDAGraphMode.FULL, "cudagraph_capture_sizes": (1, 2)},
    ],
)
def test_other_settings_do_not(changes: dict[str, Any], case: Case) -> None:
    assert key(with_settings(case, **changes)) == key(case)


def test_blocks_of_the_cache_and_threads_change_neither_key_nor_programs(
    tiny_model: Path, set_num_threads: Callable[[int], None]
) -> None:
    """How much memory a machine has free must not decide whether a start is warm."""
    set_num_threads(1)
    few = make_case(tiny_model, num_blocks=8)
    words = [piece.program.words for made in compile_step(*few) for piece in made.lowered.pieces]
    set_num_threads(2)
    many = make_case(tiny_model, num_blocks=30)
    assert [piece.program.words for made in compile_step(*many) for piece in made.lowered.pieces] == words
    assert key(many) == key(few)


def _attribute(name: str, value: Any) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        module, _, attribute = name.rpartition(".")
        setattr(case.step.model.get_submodule(module), attribute, value)

    return change


def _segments(case: Case) -> None:
    case.step.model.layers[0].mlp.down_proj.segments = [2, 32]


def _function(case: Case) -> None:
    case.step.model.norm.rms_norm = torch.nn.functional.rms_norm


def _strides(case: Case) -> None:
    norm = case.step.model.norm
    norm.weight = torch.nn.Parameter(torch.ones(64)[::2], requires_grad=False)


def _method(case: Case) -> None:
    class Method:
        def __init__(self, group: int) -> None:
            self.options = {"group": [group, {32, 64}, frozenset({1})]}

    case.step.model.layers[0].mlp.down_proj.method = Method(64)


def _tied(case: Case) -> None:
    layers = case.step.model.layers
    layers[1].input_layernorm.weight = layers[0].input_layernorm.weight


MUTATIONS = [
    _attribute("norm.eps", 1e-6),
    _attribute("layers.1.self_attn.attention.scale", 0.5),
    _attribute("layers.1.self_attn.attention.window", 16),
    _segments,
    _function,
    _strides,
    _method,
    _tied,
]


@pytest.mark.parametrize("change", MUTATIONS)
def test_whatever_a_trace_may_read_changes_the_key(change: Callable[[Case], None], tiny_model: Path) -> None:
    case = make_case(tiny_model)
    before = key(case)
    change(case)
    assert key(case) != before


def test_contents_of_containers_in_objects_count(tiny_model: Path) -> None:
    case = make_case(tiny_model)
    _method(case)
    before = key(case)
    case.step.model.layers[0].mlp.down_proj.method.options["group"][0] = 32  # type: ignore[union-attr,operator,index]
    assert key(case) != before


def test_what_cannot_be_described_has_no_key(tiny_model: Path) -> None:
    case = make_case(tiny_model)
    case.step.model.norm.note = iter(())
    with pytest.raises(UndescribableError, match="tuple_iterator"):
        key(case)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("ozone.compilation.artifact_key.torch.__version__", "9.9"),
        ("ozone.compilation.artifact_key.code_digest", lambda: "other"),
        ("ozone.compilation.artifact_key.platform.python_version", lambda: "4.0"),
        ("ozone.compilation.artifact_key.FORMAT", 99),
    ],
)
def test_versions_change_the_key(place: str, value: Any, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(case)
    monkeypatch.setattr(place, value)
    assert key(case) != before


class _OtherLibrary:
    """The native library with something changed."""

    def __init__(self, **changes: Any) -> None:
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        return self._changes.get(name, getattr(library(), name))


class _OtherKernel:
    def __init__(self, kernel: Any) -> None:
        self.name, self.id, self.version, self.fields = kernel.name, kernel.id, kernel.version + 1, ()


def test_kernels_and_instruction_sets_change_the_key(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    native = library()
    assert native is not None
    kernels = native.kernels()
    others = [
        _OtherLibrary(),
        _OtherLibrary(isa=lambda: "another"),
        _OtherLibrary(build_info=lambda: {"compiler": "another"}),
        _OtherLibrary(kernels=lambda: {**kernels, "rms_norm": _OtherKernel(kernels["rms_norm"])}),
    ]
    keys = [key(case)]
    for other in others:
        monkeypatch.setattr(artifact_key, "library", lambda other=other: other)
        keys.append(key(case))
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1


def test_the_digest_of_code_covers_every_room_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    code_digest = artifact_key.code_digest.__wrapped__
    read_bytes, read = Path.read_bytes, list[str]()

    def reading(path: Path) -> bytes:
        read.append(str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", reading)
    before = code_digest()
    for file in ("ops/norm.py", "layers/attention.py", "models/llama.py", "compilation/lowering.py"):
        assert any(path.endswith(file) for path in read), file
    monkeypatch.setattr(Path, "read_bytes", lambda path: reading(path) + b"#" * (path.name == "norm.py"))
    assert code_digest() != before
