"""A model loaded for a benchmark, with what reports say about it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ozone.bench.reporting import Reporter, model_report, model_title
from ozone.config.args import EngineArgs
from ozone.config.model import ModelConfig
from ozone.entrypoints.assemble import LoadedModel, load
from ozone.weights.model_files import open_model_of


@dataclass(frozen=True)
class BenchModel:
    """The model and its geometry."""

    loaded: LoadedModel
    geometry: ModelConfig

    @property
    def title(self) -> str:
        """The run in a few words, for the head of a table."""
        return model_title(self.loaded.config)

    def as_json(self) -> dict[str, Any]:
        return {**model_report(self.loaded.config), "startup": self.loaded.startup.report()}


def load_for_bench(args: EngineArgs, reporter: Reporter) -> BenchModel:
    """Load the model that `args` name, without a prefix cache where they say nothing of one.

    It would answer for prefills, and keep what was computed, so that all that follows needs new memory.

    Raises `OzoneError` as `load` does.
    """
    if args.enable_prefix_caching is None:
        args = dataclasses.replace(args, enable_prefix_caching=False)
    loaded = load(args)
    reporter.note(loaded.startup.line())
    files = open_model_of(args, config_only=True)
    return BenchModel(loaded, files.config)
