"""How much memory of a process is resident, as Linux counts it."""

from __future__ import annotations

from pathlib import Path

_FIELDS = {"VmHWM:": "peak", "VmRSS:": "now", "RssAnon:": "anonymous", "RssFile:": "files"}


def resident_bytes(process: int | None = None, root: Path = Path("/proc")) -> dict[str, int]:
    """Bytes of a process, our own by default: ``peak``, ``now``, and of these ``anonymous`` and ``files``,
    which are mapped. Empty where the system does not say.

    The peak is not `getrusage`'s, which a process inherits from the one that started it.
    """
    try:
        status = root / ("self" if process is None else str(process)) / "status"
        lines = status.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines)
    return {_FIELDS[word[0]]: int(word[1]) * 1024 for word in words if word and word[0] in _FIELDS}
