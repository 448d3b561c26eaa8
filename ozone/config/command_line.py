"""The engine's flags on a command line, and what was said with them as `EngineArgs`.

How flags are spelled is in `parser.py`.
"""

from __future__ import annotations

import argparse
from typing import Any, Literal

from ozone.config import values
from ozone.config.args import LEAF_FLAGS, EngineArgs, set_eager
from ozone.config.keys import (
    COMPILATION,
    COMPILATION_KEYS,
    ENGINE_KEYS,
    KERNEL,
    KERNEL_KEYS,
    KEYS,
    LIST_KEYS,
    Key,
)
from ozone.config.leaves import EAGER_FLAG, Leaves
from ozone.config.parser import CONFIG_FLAG, ArgumentParser
from ozone.errors import ConfigError

__all__ = ["ArgumentParser", "add_engine_arguments", "engine_args"]


class _LeavesAction(argparse.Action):
    """An action that changes the config objects' leaves set so far, in the order of the command line."""

    merges = True  # what a config file says as well is kept, see `config_file.py`

    def __call__(self, parser: Any, namespace: Any, given: Any, option_string: str | None = None) -> None:
        del parser
        self.change(_leaves(namespace), given, option_string or "")

    def change(self, leaves: Leaves, given: Any, flag: str) -> None:
        raise NotImplementedError


class _ObjectAction(_LeavesAction):
    """One `KEY=VALUE`, `KEY+=VALUE` or JSON object."""

    def change(self, leaves: Leaves, given: Any, flag: str) -> None:
        prefix = KERNEL if flag == "--kernel-config" else COMPILATION
        path, equals, value = given.partition("=")
        if given.lstrip().startswith("{") or not equals:
            leaves.merge(prefix, given)
        else:
            leaves.assign(prefix, path.removesuffix("+"), value, append=path.endswith("+"))


class _LeafAction(_LeavesAction):
    """A flag that is short for one leaf."""

    def change(self, leaves: Leaves, given: Any, flag: str) -> None:
        key = LEAF_FLAGS[self.dest]
        value: object = ",".join(given) if isinstance(given, list) else given
        if self.nargs == 0:
            value = not flag.startswith("--no-")
        leaves.set(key, value, f"--{self.dest.replace('_', '-')}={value}")


class _EagerAction(_LeavesAction):
    def change(self, leaves: Leaves, given: Any, flag: str) -> None:
        del given
        if not flag.startswith("--no-"):
            set_eager(leaves)
            return
        for key in [key for key, user in leaves.settings.items() if user.flag == EAGER_FLAG]:
            del leaves.settings[key]


def _leaves(namespace: argparse.Namespace) -> Leaves:
    if not isinstance(getattr(namespace, "leaves", None), Leaves):
        namespace.leaves = Leaves()
    leaves: Leaves = namespace.leaves
    return leaves


def add_engine_arguments(
    parser: argparse.ArgumentParser, *, model: Literal["positional", "flag", "both"]
) -> None:
    """Add every flag of the engine. `model`: the model is named `MODEL`, `--model MODEL` or either."""
    groups = {
        "model": parser.add_argument_group("model"),
        "cache": parser.add_argument_group("KV cache"),
        "scheduler": parser.add_argument_group("scheduler"),
        "parallel": parser.add_argument_group("threads and processes"),
    }
    levels = parser.add_argument_group("levels and what they set")
    if model in ("positional", "both"):
        key = ENGINE_KEYS["model.model"]
        parser.add_argument("model_argument", nargs="?", metavar="MODEL", help=_help(key))
    for key in ENGINE_KEYS.values():
        if key.name != "model" or model != "positional":
            _add_key(groups.get(key.key.partition(".")[0], levels), key)
    parser.add_argument(
        CONFIG_FLAG,
        metavar="FILE",
        help="read flags from this YAML file, such as `max-model-len: 4096`; the command line wins",
    )
    _add_objects(levels)
    _add_leaf_flags(levels)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_key(group: argparse._ArgumentGroup, key: Key) -> None:
    flags = [key.flag, *([_flag(key.alias)] if key.alias else []), *([key.short] if key.short else [])]
    if key.kind is values.boolean:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, default=None, help=_help(key))
    elif key.several:
        group.add_argument(*flags, nargs="+", default=None, metavar=key.metavar, help=_help(key))
    else:
        group.add_argument(*flags, default=None, metavar=key.metavar, help=_help(key))


def _help(key: Key) -> str:
    text = f"{key.help} (default: {key.default})" if key.default else key.help
    return text.replace("%", "%%")


def _add_objects(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-cc",
        "--compilation-config",
        action=_ObjectAction,
        metavar="JSON",
        help="compilation and graphs: -cc.KEY=VALUE, -cc.KEY VALUE, -cc.KEY+=a,b or JSON; keys: "
        + ", ".join(name.removeprefix(COMPILATION) for name in COMPILATION_KEYS),
    )
    group.add_argument(
        "--kernel-config",
        action=_ObjectAction,
        metavar="JSON",
        help="kernels, likewise; keys: " + ", ".join(name.removeprefix(KERNEL) for name in KERNEL_KEYS),
    )
    group.add_argument(
        EAGER_FLAG,
        "--no-enforce-eager",
        action=_EagerAction,
        nargs=0,
        help="no compilation, no graphs: -cc.mode=NONE -cc.cudagraph_mode=NONE",
    )


def _add_leaf_flags(group: argparse._ArgumentGroup) -> None:
    for name, key in LEAF_FLAGS.items():
        switch = KEYS[key].kind is values.boolean
        nargs: Any = 0 if switch else ("+" if key in LIST_KEYS else None)
        flags = [_flag(name), _flag("no_" + name)] if switch else [_flag(name)]
        group.add_argument(
            *flags,
            dest=name,
            action=_LeafAction,
            metavar="N",
            nargs=nargs,
            help=f"the same as {KEYS[key].flag}",
        )


def engine_args(namespace: argparse.Namespace) -> EngineArgs:
    """The engine's arguments from what `add_engine_arguments` added; `ConfigError` on a bad value."""
    given: dict[str, Any] = {key.name: getattr(namespace, key.name, None) for key in ENGINE_KEYS.values()}
    positional = getattr(namespace, "model_argument", None)
    if positional is not None:
        if given["model"] not in (None, positional):
            raise ConfigError(f"the model is named twice: {positional} and --model {given['model']}")
        given["model"] = positional
    leaves = _leaves(namespace)
    for flag, reason in getattr(namespace, "accepted", {}).items():
        leaves.ignore(flag, reason)
    args = EngineArgs(**given, compilation_config=leaves)
    args.user_settings()
    return args
