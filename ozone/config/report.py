"""The resolved configuration for people and for programs: every setting, its value, who set it and why."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ozone.config.keys import KEYS
from ozone.config.schema import OzoneConfig
from ozone.config.values import plain, show
from ozone.errors import escaped

Row = tuple[str, str, str, str]


def settings_json(config: OzoneConfig) -> dict[str, dict[str, object]]:
    """The settings as JSON has them, by full key."""
    return {
        key: {"value": plain(setting.value), "origin": setting.origin, "reason": setting.reason}
        for key, setting in config.settings.items()
    }


def settings_rows(config: OzoneConfig) -> list[Row]:
    """The settings as rows of a table, below a heading."""
    return [
        ("setting", "value", "set by", "why"),
        *(
            (KEYS[key].flag, escaped(show(setting.value)), _short(setting.origin), escaped(setting.reason))
            for key, setting in config.settings.items()
        ),
    ]


def table(rows: Sequence[Row], width: int) -> list[str]:
    """Lines of aligned columns; all but the first wrap where `width` is small."""
    longest = [max(len(row[column]) for row in rows) for column in range(4)]
    if sum(longest) + 6 > width:
        longest[1] = min(longest[1], 24)
        longest[2] = min(longest[2], 20)
        longest[3] = max(20, width - sum(longest[:3]) - 6)
    lines = []
    for row in rows:
        cells = [_wrap(text, size) for text, size in zip(row, longest, strict=True)]
        for index in range(max(map(len, cells))):
            parts = (cell[index] if index < len(cell) else "" for cell in cells)
            padded = (f"{part:<{size}}" for part, size in zip(parts, longest, strict=True))
            lines.append("  ".join(padded).rstrip())
    return lines


def _short(origin: str) -> str:
    """`required by KEY` with the key as a command line spells it."""
    before, required, key = origin.partition("required by ")
    return before + required + (KEYS[key].flag if key in KEYS else key)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 1), break_on_hyphens=False) or [""]
