"""Flags from the fields of a dataclass: one row each, from which arguments, values, errors and docs follow.

The rows themselves are in `flags.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ozone.config.switches import add_switch, spellings
from ozone.config.values import Kind, boolean

_ROW = "flag"
SAME = "the same"

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
        kind: reads and checks its value.
        help: one line for ``--help`` and the docs.
        default: what help says about the default.
        flag: how help spells it. A switch has more spellings, see `switches.py`.
        metavar: what stands for the value in ``--help``; empty for a switch.
        several: the flag takes several words, and may be given again.
        environment: variables that are read where the flag is not given; the first that is not empty.
        vllm: vLLM's default, `SAME`, or empty where vLLM has no such flag.
    """

    kind: Kind
    help: str
    default: str = ""
    flag: str = ""
    metavar: str = ""
    several: bool = False
    environment: tuple[str, ...] = ()
    vllm: str = SAME

    @property
    def is_switch(self) -> bool:
        return self.kind is boolean


def flag(kind: Kind, help: str, value: Any, **rest: Any) -> Any:
    """A field of a dataclass with default `value` that a flag sets; `rest` are attributes of `Flag`."""
    return dataclasses.field(default=value, metadata={_ROW: Flag(kind, help, **rest)})


def rows(settings: type[Any]) -> dict[str, Flag]:
    """The flags of a dataclass by the names of its fields, with what can be left out filled in."""
    found = {}
    for field in dataclasses.fields(settings):
        row: Flag | None = field.metadata.get(_ROW)
        if row is None:
            continue
        spelling = row.flag or "--" + field.name.replace("_", "-")
        default = row.default or _default(row, spelling, field.default)
        found[field.name] = dataclasses.replace(row, default=default, flag=spelling)
    return found


def _default(row: Flag, spelling: str, value: Any) -> str:
    if row.is_switch:
        return "on" if value == spellings(_positive(spelling))[spelling] else "off"
    return "none" if value in (None, (), "") else str(value)


def add_flags(group: argparse._ActionsContainer, settings: type[Any]) -> None:
    """Add the flags of a dataclass. None means not set by the user."""
    for name, row in rows(settings).items():
        text = f"{row.help} (default: {row.default})".replace("%", "%%")
        if row.is_switch:
            add_switch(group, _positive(row.flag), row.flag, name, text)
        elif row.several:
            group.add_argument(
                row.flag, dest=name, nargs="+", action="extend", metavar=row.metavar, help=text
            )
        else:
            group.add_argument(row.flag, dest=name, metavar=row.metavar, help=text)


def _positive(spelling: str) -> str:
    """The name of a switch, whichever way help spells it."""
    return spelling.removeprefix("--").removeprefix("enable-").removeprefix("disable-")


def read_flags(namespace: argparse.Namespace, settings: type[Settings]) -> Settings:
    """A `settings` from what `add_flags` added and the environment. Raises ConfigError for a bad value."""
    chosen: dict[str, Any] = {}
    for name, row in rows(settings).items():
        given = getattr(namespace, name, None)
        if given is not None:
            chosen[name] = row.kind(given, row.flag)
        elif (variable := _set_variable(row, os.environ)) is not None:
            chosen[name] = row.kind(os.environ[variable], variable)
    return settings(**chosen)


def _set_variable(row: Flag, environment: Mapping[str, str]) -> str | None:
    return next((name for name in row.environment if environment.get(name)), None)


def docs_rows(settings: type[Any]) -> list[str]:
    """The table of flags in `docs/flags.md`, line by line."""
    lines = ["| flag | value | meaning | default | vLLM's default |", "|---|---|---|---|---|"]
    for row in rows(settings).values():
        value = "switch" if row.is_switch else row.metavar.lower() + (", one or more" if row.several else "")
        vllm = row.vllm or "(no such flag)"
        lines.append(f"| `{row.flag}` | {value} | {row.help} | {row.default} | {vllm} |")
    return lines
