"""What Python callers pass and do: paths, types of torch, copies, forks, a look at the objects."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ozone
from ozone import LLM, SamplingParams
from ozone.config.args import EngineArgs
from ozone.errors import ConfigError, ModelFileError, RequestError

SMALL = {"num_threads": 1, "kv_cache_memory_bytes": 1_000_000, "optimization_level": 0}


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> Iterator[LLM]:
    with LLM(model=tiny_model, dtype=torch.float32, **SMALL) as model:
        yield model


def test_a_model_may_be_a_path_and_a_type_torchs(llm: LLM, tiny_model: Path) -> None:
    assert llm.config.model.model == str(tiny_model)
    assert llm.config.model.dtype == "float32"
    assert EngineArgs.from_kwargs(dtype=torch.bfloat16, download_dir=Path("/x")).download_dir == "/x"


def test_it_says_which_model_at_which_level(llm: LLM, tiny_model: Path) -> None:
    assert repr(llm) == f"<LLM {str(tiny_model)!r} at -O0>"


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_copy_is_refused_at_once(llm: LLM, duplicate) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        duplicate(llm)
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        duplicate(llm._loaded.engine)


def test_a_forked_child_is_told_and_does_not_hang(llm: LLM) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            llm.generate("a", SamplingParams(max_tokens=1), use_tqdm=False)
            said = "it answered"
        except RequestError as error:
            said = str(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert f"runs in process {os.getpid()}" in said and "spawn" in said
    assert llm.generate("a", SamplingParams(max_tokens=1), use_tqdm=False)[0].finished


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (lambda: LLM(model="/no/such/model"), ModelFileError),
        (lambda: LLM(no_such_argument=1), ConfigError),
        (lambda: LLM(dtype="float3"), ConfigError),
        (lambda: SamplingParams(temperature=-1), RequestError),
    ],
)
def test_wrong_arguments_are_value_errors(wrong, kind: type[Exception]) -> None:
    with pytest.raises(ValueError) as caught:
        wrong()
    assert isinstance(caught.value, kind)


def test_the_package_lists_its_names_and_has_types() -> None:
    assert set(ozone.__all__) <= set(dir(ozone))
    assert (Path(ozone.__file__).parent / "py.typed").is_file()


def test_defaults_of_sampling_may_be_overridden(tiny_model: Path) -> None:
    overrides = {"temperature": 0.25, "max_new_tokens": 5}
    with LLM(model=tiny_model, override_generation_config=overrides, **SMALL) as model:
        params = model.get_default_sampling_params()
    assert (params.temperature, params.max_tokens) == (0.25, 5)
    with pytest.raises(ConfigError, match=r"'temprature'; did you mean temperature\?"):
        LLM(model=tiny_model, override_generation_config={"temprature": 1}, **SMALL)


def test_values_of_the_config_may_be_overridden(tiny_model: Path) -> None:
    overrides = {"max_position_embeddings": 48, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    with LLM(model=tiny_model, hf_overrides=overrides, **SMALL) as model:
        assert model.config.model.max_model_len == 96
    with pytest.raises(ModelFileError, match=r"with --hf-overrides: hidden_size"):
        LLM(model=tiny_model, hf_overrides={"hidden_size": -1}, **SMALL)
    with pytest.raises(ConfigError, match="GGUF file without one"):
        LLM(hf_overrides={"hidden_size": 1})
