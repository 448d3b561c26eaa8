"""Artifacts on disk: a file each, in a directory that only its user can write. Never imports torch.

Files appear whole or not at all, whoever is killed meanwhile; a lock for each key dies with its process.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger("ozone")

# Beyond this, what was not used for the longest time goes. An artifact of 30 layers has 0.1 MB a range.
MAX_BYTES = 256 << 20
# A file that is larger is none of ours.
_MAX_FILE_BYTES = 1 << 30
_SUFFIX, _LOCK, _TEMPORARY = ".ozone", ".lock", ".tmp"
# What a killed process left is removed when it is older than any start takes.
_LEFT_BEHIND_SECONDS = 3600.0
_POLL_SECONDS = 0.02


def cache_disabled() -> bool:
    """Whether ``OZONE_DISABLE_COMPILE_CACHE`` asks to read and write nothing."""
    return os.environ.get("OZONE_DISABLE_COMPILE_CACHE", "0") not in ("", "0")


def reason(error: Exception) -> str:
    """Why a file could not be read or written, without its path."""
    return getattr(error, "strerror", None) or str(error)


class UnusableStoreError(Exception):
    """Why a directory cannot be used, in one line."""


@dataclass(frozen=True)
class Entry:
    """A kept artifact. `used`: when it was written or last read, in seconds of `time.time`."""

    key: str
    size: int
    used: float


class ArtifactStore:
    """The artifacts of one kind under a cache directory. A context manager: it holds the directory open.

    All access goes through that handle, so that whoever swaps the path for another directory after it was
    checked changes nothing.
    """

    def __init__(
        self, cache_dir: Path, *, room: str = "programs", create: bool = True, max_bytes: int = MAX_BYTES
    ) -> None:
        """
        Args:
            room: the directory under `cache_dir` for artifacts of one kind.
            create: whether to make it where it is not there.

        Raises: `UnusableStoreError` where there is no such directory and none can be made, and where
            another user than this one and root could put something into it.
        """
        self.path = cache_dir / room
        self._max_bytes = max_bytes
        try:
            if create:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise UnusableStoreError(f"{self.path}: {error.strerror or error}") from None
        status = os.fstat(self._directory)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            self.close()
            raise UnusableStoreError(
                f"{self.path}: other users can write there; give it to this user alone (chown, chmod 700), "
                "or choose another place with -cc.cache_dir"
            )

    def __enter__(self) -> ArtifactStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._directory)

    def file(self, key: str) -> Path:
        """Where the artifact of `key` lies or would lie."""
        return self.path / (key + _SUFFIX)

    def read(self, key: str, *, use: bool = True) -> bytes | None:
        """The bytes of an artifact, None where there is none. With `use` it counts as used now.

        Raises: `OSError` where it cannot be read.
        """
        try:
            file = os.open(key + _SUFFIX, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        with os.fdopen(file, "rb") as opened:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE_BYTES:
                raise OSError("not a file that Ozone wrote")
            if use:
                with contextlib.suppress(OSError):  # where it may only be read, nothing is removed either
                    os.utime(file)
            return opened.read()

    def write(self, key: str, content: bytes) -> None:
        """Keep an artifact, and remove those that are too much then.

        Raises: `OSError` where it cannot be written; nothing is left of it then.
        """
        temporary = f"{key}.{secrets.token_hex(8)}{_TEMPORARY}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        file = os.open(temporary, flags, 0o600, dir_fd=self._directory)
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(file)
            os.rename(temporary, key + _SUFFIX, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            self._remove(temporary)
            raise
        self._sweep(keep=key)

    def entries(self) -> list[Entry]:
        """What is kept, the last used first."""
        found = [
            Entry(name.removesuffix(_SUFFIX), status.st_size, status.st_mtime)
            for name, status in self._files()
            if name.endswith(_SUFFIX)
        ]
        return sorted(found, key=lambda entry: (-entry.used, entry.key))

    def remove(self, key: str) -> None:
        """Remove an artifact, if it is there. Raises: `OSError` where it cannot be removed."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(key + _SUFFIX, dir_fd=self._directory)

    @contextlib.contextmanager
    def lock(self, key: str, timeout: float) -> Iterator[None]:
        """Hold the lock of `key`, which one process can have at a time.

        Raises: `TimeoutError` where another one keeps it for `timeout` seconds; another `OSError` where there
            can be no lock.
        """
        deadline = time.monotonic() + timeout
        while (file := self._try_lock(key + _LOCK)) is None:
            if time.monotonic() >= deadline:
                raise TimeoutError
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            self._unlock(key + _LOCK, file)

    def lock_if_possible(self, held: contextlib.ExitStack, key: str, timeout: float, work: str) -> None:
        """Let no other process do `work` for `key` until `held` is closed, where that is possible."""
        try:
            held.enter_context(self.lock(key, timeout))
        except TimeoutError:
            logger.warning("another start has %s for %.0f s: not waiting", work, timeout)
        except OSError as error:  # a directory that may only be read, a file system without locks
            logger.debug("%s: no lock: %s", self.path, error)

    def _try_lock(self, name: str) -> int | None:
        """A handle that holds the lock; None where another process does."""
        file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=self._directory)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it before may have removed the file since it was opened here.
            if os.path.samestat(os.fstat(file), os.stat(name, dir_fd=self._directory)):
                return file
        except (BlockingIOError, FileNotFoundError):
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def _unlock(self, name: str, file: int) -> None:
        self._remove(name)
        fcntl.flock(file, fcntl.LOCK_UN)  # also of a copy of the handle that a forked process may have
        os.close(file)

    def _sweep(self, keep: str) -> None:
        """Remove what is too much, and what killed processes left behind."""
        entries = self.entries()
        excess = sum(entry.size for entry in entries) - self._max_bytes
        for entry in reversed(entries):
            if excess <= 0:
                break
            if entry.key != keep:
                excess -= entry.size
                self._remove(entry.key + _SUFFIX)
        before = time.time() - _LEFT_BEHIND_SECONDS
        for name, status in self._files():
            if status.st_mtime > before:
                continue
            if name.endswith(_TEMPORARY):
                self._remove(name)
            elif name.endswith(_LOCK) and (file := self._try_lock(name)) is not None:
                self._unlock(name, file)

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for name in os.listdir(self._directory):
            with contextlib.suppress(FileNotFoundError):  # another process may just have removed it
                yield name, os.stat(name, dir_fd=self._directory, follow_symlinks=False)

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):  # what stays is found by the next sweep
            os.unlink(name, dir_fd=self._directory)
