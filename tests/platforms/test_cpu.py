"""What a machine is said to do, from made-up /proc and /sys trees."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from ozone.config.platform import PlatformFacts
from ozone.errors import ConfigError
from ozone.platforms import cpu
from ozone.platforms.cgroup import cpu_quota, memory_limits

AVX2 = "fpu sse2 avx avx2 fma f16c"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq avx512vbmi avx512_bf16 avx512_vnni"
AMX = f"{AVX512} amx_tile amx_bf16 amx_int8"
MIB = 1024**2


class Machine:
    """A root directory with the files of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/cpuinfo", f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: {AVX2}\n")
        self.write("proc/meminfo", "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\n")

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def detect(self, **environment: str) -> PlatformFacts:
        return cpu.detect(self.root, environment)


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def test_a_plain_machine(here: Machine, eight_cores: None) -> None:
    assert here.detect() == PlatformFacts(
        name="cpu",
        cpu_model="Some CPU @ 2 GHz",
        isa="avx2",
        num_cores=8,
        memory_bytes=1024 * MIB,
        available_bytes=512 * MIB,
        native=False,
        kernels=frozenset(),
    )


def test_a_machine_that_tells_nothing_still_has_facts(tmp_path: Path) -> None:
    facts = cpu.detect(tmp_path, {})
    assert facts.isa == "portable"
    assert facts.cpu_model
    assert facts.memory_bytes >= facts.available_bytes > 0


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("", "portable"),
        ("sse2 avx avx2", "portable"),
        (AVX2, "avx2"),
        (AVX512, "avx512"),
        (AVX512.replace("avx512_bf16", ""), "avx2"),
        (AVX512.replace("avx512_vnni", ""), "avx2"),
        (AVX512.replace("avx512vl", ""), "avx2"),
        (AMX, "amx"),
        (AMX.replace("amx_int8", ""), "avx512"),
        (f"{AVX2} amx_tile amx_bf16 amx_int8", "avx2"),
    ],
)
def test_the_best_instruction_set_is_one_that_is_there_in_full(flags: str, isa: str) -> None:
    assert cpu.choose_isa(flags.split()) == isa


@pytest.mark.parametrize("forced", ["portable", "avx2", "AVX512", " amx "])
def test_a_lesser_instruction_set_can_be_forced(forced: str) -> None:
    assert cpu.choose_isa(AMX.split(), forced) == forced.strip().lower()


def test_an_instruction_set_that_the_cpu_lacks_cannot_be_forced(here: Machine) -> None:
    with pytest.raises(
        ConfigError, match=r"OZONE_ISA=amx: this CPU lacks .*amx_tile.* it has portable, avx2"
    ):
        here.detect(OZONE_ISA="amx")


def test_an_unknown_instruction_set_is_an_error_that_names_the_known(here: Machine) -> None:
    with pytest.raises(ConfigError, match=r"OZONE_ISA=neon: .* portable, avx2, avx512, amx"):
        here.detect(OZONE_ISA="neon")


def test_the_environment_forces_the_instruction_set(here: Machine) -> None:
    assert here.detect(OZONE_ISA="portable").isa == "portable"
    assert here.detect(OZONE_ISA="").isa == "avx2"


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8), ("300000", 3)],
)
def test_a_quota_of_cgroup_v2_bounds_the_cores(
    here: Machine, eight_cores: None, limit: str, cores: int
) -> None:
    here.write("proc/self/cgroup", "0::/box")
    here.write("sys/fs/cgroup/box/cpu.max", limit)
    assert here.detect().num_cores == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 8), (400_000, 4), (10_000, 1)])
def test_a_quota_of_cgroup_v1_bounds_the_cores(
    here: Machine, eight_cores: None, quota: int, cores: int
) -> None:
    here.write("proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/box")
    here.write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", quota)
    here.write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", 100_000)
    assert here.detect().num_cores == cores


def test_the_tightest_quota_from_the_root_down_counts(here: Machine) -> None:
    here.write("proc/self/cgroup", "0::/outer/inner")
    here.write("sys/fs/cgroup/outer/cpu.max", "150000 100000")
    here.write("sys/fs/cgroup/outer/inner/cpu.max", "400000 100000")
    assert cpu_quota(here.root) == 1.5


def test_a_container_that_sees_its_own_group_as_the_root_is_bounded_too(here: Machine) -> None:
    here.write("proc/self/cgroup", "0::/../../somewhere/else")
    here.write("sys/fs/cgroup/memory.max", 256 * MIB)
    here.write("sys/fs/cgroup/memory.current", 6 * MIB)
    facts = here.detect()
    assert (facts.memory_bytes, facts.available_bytes) == (256 * MIB, 250 * MIB)


def test_memory_of_cgroup_v2_without_what_can_be_dropped(here: Machine) -> None:
    here.write("proc/self/cgroup", "0::/box")
    here.write("sys/fs/cgroup/box/memory.max", 300 * MIB)
    here.write("sys/fs/cgroup/box/memory.current", 200 * MIB)
    here.write("sys/fs/cgroup/box/memory.stat", f"anon 1\ninactive_file {50 * MIB}\nactive_file 7")
    facts = here.detect()
    assert (facts.memory_bytes, facts.available_bytes) == (300 * MIB, 150 * MIB)


def test_memory_of_cgroup_v1(here: Machine) -> None:
    here.write("proc/self/cgroup", "0::/\n7:memory:/box")
    here.write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", 300 * MIB)
    here.write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", 100 * MIB)
    here.write("sys/fs/cgroup/memory/box/memory.stat", f"cache 3\ntotal_inactive_file {20 * MIB}")
    here.write("sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    assert memory_limits(here.root) == [(300 * MIB, 80 * MIB)]
    assert here.detect().available_bytes == 220 * MIB


@pytest.mark.parametrize("text", ["max", "0", "nonsense", ""])
def test_no_limit_is_no_limit(here: Machine, text: str) -> None:
    here.write("proc/self/cgroup", "0::/box")
    here.write("sys/fs/cgroup/box/memory.max", text)
    here.write("sys/fs/cgroup/box/cpu.max", text)
    assert here.detect().memory_bytes == 1024 * MIB
    assert cpu_quota(here.root) is None


def test_a_limit_beyond_the_machine_changes_nothing(here: Machine) -> None:
    here.write("proc/self/cgroup", "0::/box")
    here.write("sys/fs/cgroup/box/memory.max", 9000 * MIB)
    here.write("sys/fs/cgroup/box/memory.current", MIB)
    facts = here.detect()
    assert (facts.memory_bytes, facts.available_bytes) == (1024 * MIB, 512 * MIB)


def test_a_full_group_has_nothing_free(here: Machine) -> None:
    here.write("proc/self/cgroup", "0::/box")
    here.write("sys/fs/cgroup/box/memory.max", 10 * MIB)
    here.write("sys/fs/cgroup/box/memory.current", 20 * MIB)
    assert here.detect().available_bytes == 0


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc")
def test_this_machine_has_plausible_facts() -> None:
    facts = cpu.detect(environment={})
    assert facts.isa in cpu.ISAS
    assert 1 <= facts.num_cores <= (os.cpu_count() or 1)
    assert 0 < facts.available_bytes <= facts.memory_bytes
    assert re.search(r"\w", facts.cpu_model)
