"""The native library, where it is built and where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ozone.native
from ozone.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_the_build_names_its_compiler_and_architecture() -> None:
    info = ozone.native.build_info()
    assert info is not None, "run `make install`"
    assert set(info) == {"compiler", "architecture"}
    assert os.uname().machine == info["architecture"]


def test_a_checkout_that_was_not_built_still_imports() -> None:
    code = (
        "import sys; sys.modules['ozone.native._native'] = None; import ozone.native; "
        "assert ozone.native.build_info() is None; from ozone.cli.main import main; main(['--version'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OZONE_NATIVE"}
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, capture_output=True, text=True, check=True, env=environment)
    assert "not built" in result.stdout


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_environment_forces_an_instruction_set_for_kernels_and_config_alike() -> None:
    code = "from ozone.native import library, platform_facts; print(library().isa(), platform_facts().isa)"
    assert _python(code, OZONE_ISA="portable").stdout.split() == ["portable", "portable"]


def test_an_instruction_set_that_is_not_there_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OZONE_ISA", "sse9")
    with pytest.raises(ConfigError, match="OZONE_ISA=sse9"):
        ozone.native.library.__wrapped__()


def test_the_library_can_be_left_out() -> None:
    code = "from ozone.native import library, platform_facts; print(library(), platform_facts().native)"
    assert _python(code, OZONE_NATIVE="0").stdout.split() == ["None", "False"]


def test_a_start_without_the_library_answers_and_says_once_what_is_missing() -> None:
    code = (
        "from ozone import LLM\n"
        "llm = LLM(optimization_level=0, kv_cache_memory_bytes=1 << 26, max_model_len=256)\n"
        "print(llm.generate(['1 2 3 4'], use_tqdm=False)[0].outputs[0].token_ids)"
    )
    result = _python(code, OZONE_NATIVE="0")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the native library is not built") == 1
    assert result.stdout.startswith("[")


def test_the_best_instruction_set_comes_last() -> None:
    native = ozone.native.library()
    assert native.isas()[0] == "portable"
    assert native.isa() in native.isas()
    with pytest.raises(ValueError, match="no such instruction set"):
        native.set_isa("sse9")


class TestRegions:
    def test_an_address_is_found_again_by_region_and_offset(self) -> None:
        native = ozone.native.library()
        first, second = ozone.native.allocate("first", 5000), ozone.native.allocate("second", 1)
        ids = {name: number for number, name, _ in native.regions()}
        base = first.ctypes.data
        assert base % 4096 == 0
        assert native.locate(base) == (ids["first"], 0)
        assert native.locate(base + 4999) == (ids["first"], 4999)
        assert native.locate(base + 5000) is None
        assert native.locate(second.ctypes.data) == (ids["second"], 0)
        assert not first.any()

    def test_a_region_is_released_with_the_last_array_over_it(self) -> None:
        native = ozone.native.library()
        part = ozone.native.allocate("released", 64)[8:16]
        assert "released" in {name for _, name, _ in native.regions()}
        del part
        assert "released" not in {name for _, name, _ in native.regions()}

    def test_more_than_any_machine_has_is_refused(self) -> None:
        for size in ((1 << 64) - 1, (1 << 64) - 4096, 1 << 60):
            with pytest.raises(ConfigError, match=r"does not give .* for huge"):
                ozone.native.allocate("huge", size)


class TestKernels:
    def test_every_kernel_declares_its_fields(self) -> None:
        kernels = ozone.native.library().kernels()
        assert len({kernel.id for kernel in kernels.values()}) == len(kernels)
        for name, kernel in kernels.items():
            assert kernel.name == name
            assert kernel.version >= 1
            names = [field for field, _ in kernel.fields]
            assert len(set(names)) == len(names)
            assert "output" in {kind for _, kind in kernel.fields} or "state" in {
                kind for _, kind in kernel.fields
            }

    def test_a_call_with_a_wrong_number_of_fields_is_refused(self) -> None:
        with pytest.raises(TypeError, match="rms_norm takes 10 arguments, not 1"):
            ozone.native.kernel("rms_norm")(0)

    def test_a_field_of_a_wrong_type_is_refused(self) -> None:
        with pytest.raises(TypeError):
            ozone.native.kernel("rms_norm")(0, 0, 0, 1, 1, 1, 1, 1, "eps", 0)

    def test_fields_behind_a_wrong_one_are_not_looked_at(self) -> None:
        class Address:
            asked = False

            def __index__(self) -> int:
                self.asked = True
                return 0

        address = Address()
        with pytest.raises(TypeError):
            ozone.native.kernel("rms_norm")("out", address, 0, 1, 1, 1, 1, 1, 1e-5, 0)
        assert not address.asked


def _base(region: np.ndarray) -> int:
    return int(region.ctypes.data)


def test_small_regions_lie_side_by_side_and_large_ones_at_a_huge_page() -> None:
    first, second = (ozone.native.allocate("small", size) for size in (5000, 100))
    assert 0 < _base(second) - _base(first) < 1 << 20
    assert _base(second) % 4096 == 0
    assert _base(ozone.native.allocate("large", 20 << 20)) % (2 << 20) == 0


def test_a_released_region_leaves_its_neighbours_alone() -> None:
    native = ozone.native.library()
    assert native is not None
    first, second = (ozone.native.allocate(name, 10_000) for name in ("first", "second"))
    second[:] = 7
    address = _base(first)
    assert native.locate(address + 9_999)[1] == 9_999
    del first
    assert native.locate(address) is None
    assert (second == 7).all()
    assert not ozone.native.allocate("new", 10_000).any()
