"""Artifacts on disk: whole or absent, one writer at a time, bounded, in a directory of one user."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ozone.compilation.artifact_store import ArtifactStore, UnusableStoreError

KEYS = ["a" * 64, "b" * 64, "c" * 64, "d" * 64]


def names(store: ArtifactStore) -> set[str]:
    return {path.name for path in store.path.iterdir()}


def in_a_process(code: str, *words: str) -> subprocess.Popen[str]:
    program = "import os, signal, sys, time\nfrom pathlib import Path\n"
    program += "from ozone.compilation.artifact_store import ArtifactStore\n"
    program += "store = ArtifactStore(Path(sys.argv[1]))\n" + code
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_what_is_written_is_read_by_its_key_alone(tmp_path: Path) -> None:
    with ArtifactStore(tmp_path / "new" / "cache") as store:
        assert store.read(KEYS[0]) is None
        store.write(KEYS[0], b"first")
        store.write(KEYS[0], b"second")
        assert store.read(KEYS[0]) == b"second"
        assert store.read(KEYS[1]) is None
        assert store.file(KEYS[0]).read_bytes() == b"second"
        (entry,) = store.entries()
        assert (entry.key, entry.size) == (KEYS[0], 6)
        store.remove(KEYS[0])
        store.remove(KEYS[0])
        assert names(store) == set()


def test_only_the_user_can_read_and_write(tmp_path: Path) -> None:
    with ArtifactStore(tmp_path) as store:
        store.write(KEYS[0], b"x")
        assert store.path.stat().st_mode & 0o777 == 0o700
        assert store.file(KEYS[0]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_can_write_is_refused(mode: int, tmp_path: Path) -> None:
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs").chmod(mode)
    with pytest.raises(UnusableStoreError, match=r"programs: other users can write there.* -cc\.cache_dir"):
        ArtifactStore(tmp_path)


def test_a_directory_of_somebody_else_is_refused_and_one_of_root_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ArtifactStore(tmp_path).close()
    owner = (tmp_path / "programs").stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    if owner == 0:
        ArtifactStore(tmp_path).close()
    else:
        with pytest.raises(UnusableStoreError, match="other users"):
            ArtifactStore(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    ArtifactStore(tmp_path).close()
    os.chown(tmp_path / "programs", 12345, -1)
    with pytest.raises(UnusableStoreError, match="other users"):
        ArtifactStore(tmp_path)


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "programs").write_bytes(b"")
    with pytest.raises(UnusableStoreError, match=r"programs: "):
        ArtifactStore(tmp_path)
    with pytest.raises(UnusableStoreError, match="No such file"):
        ArtifactStore(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_an_exchanged_directory_is_not_followed(tmp_path: Path) -> None:
    with ArtifactStore(tmp_path) as store:
        store.path.rename(tmp_path / "moved")
        store.path.mkdir()
        store.file(KEYS[0]).write_bytes(b"from somebody else")
        assert store.read(KEYS[0]) is None


def test_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    with ArtifactStore(tmp_path) as store:
        (tmp_path / "elsewhere").write_bytes(b"x")
        store.file(KEYS[0]).symlink_to(tmp_path / "elsewhere")
        os.mkfifo(store.file(KEYS[1]))
        for key in KEYS[:2]:
            with pytest.raises(OSError, match=r"."):
                store.read(key)


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    with ArtifactStore(tmp_path, max_bytes=25) as store:
        for age, key in enumerate(KEYS[:2]):
            store.write(key, b"0123456789")
            os.utime(store.file(key), (age, age))
        assert store.read(KEYS[1], use=False) is not None
        assert store.read(KEYS[0]) is not None  # now it is the last used
        store.write(KEYS[2], b"0123456789")
        assert {entry.key for entry in store.entries()} == {KEYS[0], KEYS[2]}
        store.write(KEYS[3], b"0" * 100)
        assert [entry.key for entry in store.entries()] == [KEYS[3]]


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_full_disk_leaves_what_was_there(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ArtifactStore(tmp_path) as store:
        store.write(KEYS[0], b"before")
        monkeypatch.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left"):
            store.write(KEYS[0], b"after")
        assert store.read(KEYS[0]) == b"before"
        assert len(names(store)) == 1


def test_a_file_that_may_not_grow_leaves_nothing(tmp_path: Path) -> None:
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    code += f"try:\n    store.write({KEYS[0]!r}, bytes(100_000))\nexcept OSError as e:\n    print(e.strerror)"
    out, err = in_a_process(code, str(tmp_path)).communicate(timeout=60)
    assert (out, err) == ("File too large\n", "")
    assert list((tmp_path / "programs").iterdir()) == []


def test_killed_while_writing(tmp_path: Path) -> None:
    """The next one reads nothing, writes, and in time removes what was left."""
    code = "os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
    code += f"with store.lock({KEYS[0]!r}, 1):\n    store.write({KEYS[0]!r}, b'half')"
    assert in_a_process(code, str(tmp_path)).wait(timeout=60) == -signal.SIGKILL
    with ArtifactStore(tmp_path) as store:
        (lock, temporary) = sorted(names(store), key=len)
        assert store.read(KEYS[0]) is None
        store.write(KEYS[1], b"whole")
        assert {lock, temporary} < names(store)
        for name in (lock, temporary):
            os.utime(store.path / name, (0, 0))
        store.write(KEYS[1], b"whole")
        assert names(store) == {store.file(KEYS[1]).name}


def test_one_has_the_lock_and_its_file_goes_with_it(tmp_path: Path) -> None:
    order: list[int] = []

    def hold(number: int) -> None:
        with ArtifactStore(tmp_path) as store, store.lock(KEYS[0], 30):
            order.append(number)
            time.sleep(0.02)
            order.append(number)

    threads = [threading.Thread(target=hold, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(order) == sorted([*range(8), *range(8)])
    assert order[::2] == order[1::2]
    assert list((tmp_path / "programs").iterdir()) == []


def test_a_lock_is_of_one_key_and_waiting_ends(tmp_path: Path) -> None:
    with ArtifactStore(tmp_path) as store, store.lock(KEYS[0], 1):
        with store.lock(KEYS[1], 0):
            pass
        began = time.monotonic()
        with pytest.raises(TimeoutError), store.lock(KEYS[0], 0.1):
            pass
        assert 0.1 <= time.monotonic() - began < 5


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = f"with store.lock({KEYS[0]!r}, 1):\n    print('held', flush=True)\n    time.sleep(60)"
    holder = in_a_process(code, str(tmp_path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with ArtifactStore(tmp_path) as store:
        with pytest.raises(TimeoutError), store.lock(KEYS[0], 0.05):
            pass
        holder.kill()
        with store.lock(KEYS[0], 30):
            pass
    holder.communicate()
    assert list((tmp_path / "programs").iterdir()) == []
