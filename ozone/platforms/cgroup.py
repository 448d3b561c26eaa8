"""Limits that a container puts on this process: cgroup v2 and v1, its own group and all above it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# v1 says "no limit" with a huge number of pages; no machine has half an exbibyte.
_NO_LIMIT = 1 << 59


def read(path: Path) -> str | None:
    """The file's text, or None where there is none to read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    content = read(path)
    return int(content) if content is not None and content.lstrip("-").isdecimal() else None


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Directories of the process's cgroup and of those above it, innermost first, and whether they are v2."""
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        number, controllers, path = parts
        if number == "0" and not controllers:
            for mount in ("sys/fs/cgroup", "sys/fs/cgroup/unified"):
                yield from ((directory, True) for directory in _upward(root / mount, path))
        elif controller in controllers.split(","):
            # A mount of several controllers is usually linked to under the name of each.
            for mount in dict.fromkeys((f"sys/fs/cgroup/{controller}", f"sys/fs/cgroup/{controllers}")):
                yield from ((directory, False) for directory in _upward(root / mount, path))


def _upward(mount: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def cpu_quota(root: Path) -> float | None:
    """Cores that the tightest CPU quota allows, or None where there is no quota."""
    quotas = []
    for directory, v2 in _groups(root, "cpu"):
        if v2:
            words = (read(directory / "cpu.max") or "").split()
            quota = int(words[0]) if words and words[0].isdecimal() else None
            period = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 100_000
        else:
            quota = _number(directory / "cpu.cfs_quota_us")
            period = _number(directory / "cpu.cfs_period_us") or 100_000
        if quota is not None and quota > 0 and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, bytes in use that cannot be reclaimed) of every memory cgroup that has a limit."""
    found = []
    for directory, v2 in _groups(root, "memory"):
        limit = _number(directory / ("memory.max" if v2 else "memory.limit_in_bytes"))
        if limit is None or not 0 < limit < _NO_LIMIT:
            continue
        usage = _number(directory / ("memory.current" if v2 else "memory.usage_in_bytes")) or 0
        found.append((limit, max(0, usage - _page_cache(directory, v2))))
    return found


def _page_cache(directory: Path, v2: bool) -> int:
    """File pages that the kernel drops when memory is wanted, counted as used but free for us."""
    name = "inactive_file" if v2 else "total_inactive_file"
    for line in (read(directory / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdecimal():
            return int(value)
    return 0
