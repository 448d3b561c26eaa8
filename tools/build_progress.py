"""Shows of pip's words, on stdin, what a waiting person wants: steps of the build, downloads, errors.

The last lines come out whole where nothing was installed.
"""

from __future__ import annotations

import re
import sys
from collections import deque

_STEP = re.compile(r"\s*(\[\d+/\d+\]) (.*)")
_SOURCE = re.compile(r"([\w-]+\.(?:cpp|cc|c))\.o$")
_SHOWN = re.compile(
    r"\s*(Collecting|Downloading|Building wheel|Building editable|Successfully|ERROR|error)\b"
)
_KEPT = 60


def shown(line: str) -> str | None:
    """What to print for a line of pip's, if anything."""
    if step := _STEP.match(line):
        source = _SOURCE.search(step[2].strip())
        return f"  {step[1]} {source[1] if source else 'linking'}"
    return line.rstrip()[:200] if _SHOWN.match(line) else None


def main() -> None:
    """Filter stdin until it ends."""
    last: deque[str] = deque(maxlen=_KEPT)
    done = False
    for line in sys.stdin:
        last.append(line)
        done = done or line.lstrip().startswith("Successfully installed")
        if text := shown(line):
            print(text, flush=True)
    if not done:
        print("".join(last), file=sys.stderr)


if __name__ == "__main__":
    main()
