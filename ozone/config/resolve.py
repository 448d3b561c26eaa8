"""`resolve`: from what the user asked for to one frozen config in which every value knows its origin.

Order: user values, what they need, mode, custom ops, graph mode, passes, kernels.
"""

from __future__ import annotations

import os
from typing import Any

from ozone.config.args import EngineArgs
from ozone.config.compilation_settings import resolve_compilation
from ozone.config.engine_settings import resolve_engine
from ozone.config.keys import KEYS
from ozone.config.levels import DEFAULT_LEVEL
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.resolution import Resolution
from ozone.config.schema import (
    CacheConfig,
    CompilationConfig,
    KernelConfig,
    ModelOptions,
    OzoneConfig,
    ParallelConfig,
    PassConfig,
    SchedulerConfig,
    Setting,
)
from ozone.config.unbuilt import unstartable
from ozone.errors import ConfigError

__all__ = ["resolve", "resolve_settings", "unstartable"]

_LEVEL = "optimization_level"


def resolve(args: EngineArgs, model: ModelConfig | None, platform: PlatformFacts) -> OzoneConfig:
    """Decide everything. `ConfigError` where two user values contradict each other or one is impossible.

    `model` may be None, where only settings are of interest.
    """
    config = resolve_settings(args, model, platform)
    if (reason := unstartable(config)) is not None:
        raise ConfigError(reason)
    return config


def resolve_settings(args: EngineArgs, model: ModelConfig | None, platform: PlatformFacts) -> OzoneConfig:
    """`resolve` without asking whether the machinery for the outcome is built."""
    user, notices = args.user_settings()
    level = user[_LEVEL].value if _LEVEL in user else DEFAULT_LEVEL
    r = Resolution(user, model, platform, level)
    r.notices += notices + _environment_notices()
    r.put(_LEVEL, level, "default", "no level was given")
    resolve_engine(r)
    resolve_compilation(r)
    return _assemble(r)


def _environment_notices() -> list[str]:
    """Warnings about vLLM's environment variables, which are read only where there are any."""
    if not any(name.startswith("VLLM_") for name in os.environ):
        return []
    from ozone.config.vllm_environment import notices

    return notices(os.environ)


def _assemble(r: Resolution) -> OzoneConfig:
    settings: dict[str, Setting] = {key: r.settings[key] for key in KEYS}
    passes = PassConfig(**_section(settings, "compilation_config.pass_config"))
    return OzoneConfig(
        optimization_level=r.level,
        model=ModelOptions(**_section(settings, "model")),
        cache=CacheConfig(**_section(settings, "cache")),
        scheduler=SchedulerConfig(**_section(settings, "scheduler")),
        parallel=ParallelConfig(**_section(settings, "parallel")),
        compilation=CompilationConfig(**_section(settings, "compilation_config"), pass_config=passes),
        kernel=KernelConfig(**_section(settings, "kernel_config")),
        settings=settings,
        notices=r.all_notices(),
    )


def _section(settings: dict[str, Setting], prefix: str) -> dict[str, Any]:
    start = prefix + "."
    return {
        key.removeprefix(start): setting.value
        for key, setting in settings.items()
        if key.startswith(start) and "." not in key.removeprefix(start)
    }
