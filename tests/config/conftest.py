"""What tests of settings share: a machine, a model, and resolving a command line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.resolve import resolve, resolve_settings
from ozone.config.schema import OzoneConfig

GIB = 1024**3


@pytest.fixture(scope="session")
def machine() -> PlatformFacts:
    return PlatformFacts(
        name="cpu",
        cpu_model="a CPU",
        isa="avx2",
        num_cores=6,
        memory_bytes=16 * GIB,
        available_bytes=8 * GIB,
    )


@pytest.fixture(scope="session")
def small_model() -> ModelConfig:
    """4 layers with 1 KV head of 16: 256 bytes of KV cache a token in bfloat16, 8192 tokens at most."""
    return ModelConfig(
        family="llama",
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_layers=4,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        rms_norm_eps=1e-5,
        max_position=8192,
        tie_word_embeddings=True,
        attention_scale=16**-0.5,
        layer_types=("full_attention",) * 4,
    )


@pytest.fixture
def parse() -> Callable[..., EngineArgs]:
    """Engine arguments of a command line."""

    def run(*words: str) -> EngineArgs:
        parser = ArgumentParser(prog="ozone test")
        add_engine_arguments(parser, model="both")
        return engine_args(parser.parse_args(list(words)))

    return run


@pytest.fixture
def resolved(parse: Callable[..., EngineArgs], machine: PlatformFacts) -> Callable[..., OzoneConfig]:
    """The config that a command line resolves to, without asking what is built."""

    def run(*words: str, model: ModelConfig | None = None, platform: PlatformFacts = machine) -> OzoneConfig:
        return resolve_settings(parse(*words), model, platform)

    return run


@pytest.fixture
def resolved_kwargs(machine: PlatformFacts) -> Callable[..., OzoneConfig]:
    """The config that keyword arguments resolve to."""

    def run(**kwargs: object) -> OzoneConfig:
        return resolve(EngineArgs.from_kwargs(**kwargs), None, machine)

    return run
