"""`ozone config`: every setting, its value, who set it and why. Never imports torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
from collections.abc import Sequence

from ozone.config.args import EngineArgs
from ozone.config.command_line import ArgumentParser, add_engine_arguments, engine_args
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.resolve import resolve
from ozone.config.schema import OzoneConfig
from ozone.config.values import plain, show
from ozone.errors import ModelFileError
from ozone.platforms.cpu import detect

_DESCRIPTION = """\
Show what would be in force with these flags: every setting, its value, who set it and why.
Without MODEL the settings are those of the default model, if it is installed."""


def main(argv: list[str]) -> int:
    """Run `ozone config`."""
    parser = ArgumentParser(prog="ozone config", description=_DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the machine's facts too")
    add_engine_arguments(parser, model="both")
    namespace = parser.parse_args(argv)
    args = engine_args(namespace)
    facts = detect()
    config = resolve(args, _read_model(args), facts)
    if namespace.json:
        print(json.dumps(as_json(config), indent=2))
    else:
        print(
            as_text(
                config, facts, verbose=namespace.verbose, width=shutil.get_terminal_size((120, 24)).columns
            )
        )
    return 0


def _read_model(args: EngineArgs) -> ModelConfig | None:
    from ozone.weights.embedded import DEFAULT_MODEL
    from ozone.weights.model_files import open_model

    try:
        return open_model(
            args.model or DEFAULT_MODEL,
            revision=args.revision,
            download_dir=args.download_dir,
            config_only=True,
        ).config
    except ModelFileError:
        if args.model is not None:
            raise
        return None


def as_json(config: OzoneConfig) -> dict[str, dict[str, object]]:
    """The settings as JSON has them, by full key."""
    return {
        key: {"value": plain(setting.value), "origin": setting.origin, "reason": setting.reason}
        for key, setting in config.settings.items()
    }


def as_text(config: OzoneConfig, facts: PlatformFacts, *, verbose: bool, width: int) -> str:
    """The settings as a table that fits `width` columns, then the notices."""
    rows = [("setting", "value", "set by", "why")]
    rows += [(key, show(s.value), s.origin, s.reason) for key, s in config.settings.items()]
    if verbose:
        rows += [("", "", "", "")]
        rows += [
            (f"platform.{field.name}", _fact(getattr(facts, field.name)), "platform", "")
            for field in dataclasses.fields(facts)
        ]
    lines = _table(rows, width)
    if config.notices:
        lines += ["", *(f"note: {notice}" for notice in config.notices)]
    return "\n".join(lines)


def _fact(value: object) -> str:
    return ", ".join(sorted(value)) or "none" if isinstance(value, frozenset) else show(value)


def _table(rows: Sequence[tuple[str, str, str, str]], width: int) -> list[str]:
    """Aligned columns; the last two wrap, and a narrow terminal gets what fits."""
    key_width = max(len(row[0]) for row in rows)
    value_width = min(max(len(row[1]) for row in rows), 28)
    origin_width = 20
    reason_width = max(20, width - key_width - value_width - origin_width - 6)
    widths = (key_width, value_width, origin_width, reason_width)
    lines = []
    for row in rows:
        cells = [_wrap(text, size) for text, size in zip(row, widths, strict=True)]
        for index in range(max(map(len, cells))):
            parts = [cell[index] if index < len(cell) else "" for cell in cells]
            padded = (f"{part:<{size}}" for part, size in zip(parts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
    return lines


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]
