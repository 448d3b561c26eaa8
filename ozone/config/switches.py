"""Switches of a command line: every spelling that turns one on or off, and `--flag=VALUE`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from ozone.config import values


def spellings(name: str) -> dict[str, bool]:
    """Every spelling of the switch `name`, which is spelled with dashes, and whether it turns it on.

    `name` is positive and has no prefix: ``log-requests``, not ``disable-log-requests``.
    """
    return {
        f"--{name}": True,
        f"--enable-{name}": True,
        f"--no-disable-{name}": True,
        f"--no-{name}": False,
        f"--disable-{name}": False,
        f"--no-enable-{name}": False,
    }


class SwitchAction(argparse.Action):
    """Stores whether the spelling that was typed turns the switch on."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, means: dict[str, bool], **rest: Any):
        super().__init__(option_strings, dest, nargs=0, **rest)
        self._means = means

    def __call__(self, parser: Any, namespace: Any, given: Any, option_string: str | None = None) -> None:
        del parser, given
        setattr(namespace, self.dest, self._means[option_string or self.option_strings[0]])

    def respelled(self, flag: str, value: str) -> str:
        """`--flag=value` as a spelling without a value; `ConfigError` where it is not a boolean."""
        on = self._means[flag] == values.boolean(value, flag)
        return next(spelling for spelling, means in self._means.items() if means == on)


def add_switch(group: argparse._ActionsContainer, name: str, shown: str, dest: str, help: str) -> None:
    """Add a switch under all its spellings, of which help shows one. None means not set by the user."""
    means = spellings(name)
    common: dict[str, Any] = {"dest": dest, "action": SwitchAction, "means": means, "default": None}
    group.add_argument(shown, help=help, **common)
    group.add_argument(*(means.keys() - {shown}), help=argparse.SUPPRESS, **common)


def readings(flag: str) -> Iterator[tuple[str, bool]]:
    """Switches that `flag` may be a spelling of, likelier ones first, and whether it turns them on.

    `--disable-x` may be a switch of that name, `--enable-x` turned off, or `--x` turned off.
    """
    name = flag.removeprefix("--")
    on = not name.startswith("no-")
    name = name.removeprefix("no-")
    yield "--" + name, on
    verb, dash, rest = name.partition("-")
    if dash and verb in ("enable", "disable"):
        yield f"--{'disable' if verb == 'enable' else 'enable'}-{rest}", not on
        yield f"--{rest}", on == (verb == "enable")
