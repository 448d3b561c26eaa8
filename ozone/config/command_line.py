"""The command line's spellings: levels, config objects, dashes and underscores, no abbreviations.

`ArgumentParser` behaves as argparse does, but for these; every mistake is one line on stderr and exit 2.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

from ozone.config import values
from ozone.config.args import LEAF_FLAGS, EngineArgs, set_eager
from ozone.config.keys import COMPILATION, COMPILATION_KEYS, ENGINE_KEYS, KERNEL, KERNEL_KEYS, Key
from ozone.config.leaves import Leaves
from ozone.config.upstream import ANSWERS, IGNORED_FLAGS, REFUSED_FLAGS, nearest
from ozone.errors import ConfigError

_OBJECT = re.compile(r"(-cc|--compilation-config|--kernel-config)(?:\.([^=+]+?))?(\+?=)(.*)", re.DOTALL)
_OBJECT_FLAGS = {"-cc": COMPILATION, "--compilation-config": COMPILATION, "--kernel-config": KERNEL}
_LEVEL = re.compile(r"-O=?(.+)", re.DOTALL)
_NUMBER = re.compile(r"-\d+$|-\d*\.\d+(e[+-]?\d+)?$", re.IGNORECASE)


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with vLLM's spellings, one-line errors and nearest-name hints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """One line on stderr and exit 2."""
        print(f"ozone: error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        try:
            words = self._respell(list(sys.argv[1:] if args is None else args))
            return super().parse_known_args(words, namespace)
        except ConfigError as error:
            self.error(str(error))

    def _respell(self, words: list[str]) -> list[str]:
        """The command line in argparse's own terms; `ConfigError` on an unknown flag."""
        known = self._option_string_actions
        result: list[str] = []
        waiting = iter(words)
        for word in waiting:
            if word == "--":
                result += [word, *waiting]
                break
            if not word.startswith("-") or word == "-" or _NUMBER.match(word) or " " in word.split("=", 1)[0]:
                result.append(word)
                continue
            flag, equals, value = word.partition("=")
            flag = "--" + flag[2:].replace("_", "-") if flag.startswith("--") else flag
            if flag.partition(".")[0] in _OBJECT_FLAGS and flag.partition(".")[0] in known:
                result += self._respell_object(flag + equals + value, waiting)
            elif "-O" in known and flag == "-O" and not equals:
                result.append("--optimization-level")
            elif "-O" in known and (level := _LEVEL.fullmatch(word)):
                if level[1].startswith("."):
                    raise ConfigError(f"{word}: config keys are spelled -cc{level[1]}")
                result.append(f"--optimization-level={level[1]}")
            elif flag in known:
                result += self._respell_switch(flag, value) if equals else [flag]
            elif not flag.startswith("--") and flag[:2] in known and len(flag) > 2:
                result.append(word)
            else:
                raise ConfigError(self._unknown(flag))
        return result

    def _respell_object(self, word: str, waiting: Any) -> list[str]:
        match = _OBJECT.fullmatch(word)
        if match is not None:
            flag, path, operator, value = match.groups()
        else:
            flag, _, path = word.partition(".")
            operator = "+=" if path.endswith("+") else "="
            path = path.removesuffix("+")
            value = next(waiting, None)
            if value is None or value.startswith("--") or value in self._option_string_actions:
                raise ConfigError(f"{word}: a value is missing")
        if not path:
            return [f"{flag}={value}"] if flag.startswith("--") else ["--compilation-config=" + value]
        long = "--kernel-config" if flag == "--kernel-config" else "--compilation-config"
        return [f"{long}={path}{operator}{value}"]

    def _respell_switch(self, flag: str, value: str) -> list[str]:
        action = self._option_string_actions[flag]
        if not isinstance(action, argparse.BooleanOptionalAction):
            return [f"{flag}={value}"]
        on = values.boolean(value, flag) != flag.startswith("--no-")
        strings = action.option_strings
        return [next(s for s in strings if s.startswith("--no-") != on)]

    def _unknown(self, flag: str) -> str:
        name = flag.lstrip("-").removeprefix("no-").replace("-", "_")
        name = _UPSTREAM_SHORT.get(flag, name)
        if "--tensor-parallel-size" in self._option_string_actions:  # an engine's command line
            if name in ANSWERS:
                return f"{flag}: {ANSWERS[name]}"
            if name in REFUSED_FLAGS:
                return f"vLLM has {flag}; Ozone does not (yet): {REFUSED_FLAGS[name]}"
        return f"there is no flag {flag}{nearest(flag, self._option_string_actions)}"


_UPSTREAM_SHORT = {
    "-q": "quantization",
    "-pp": "pipeline_parallel_size",
    "-dp": "data_parallel_size",
}


class _ObjectAction(argparse.Action):
    """Merges one `KEY=VALUE`, `KEY+=VALUE` or JSON object into the leaves set so far."""

    def __call__(self, parser: Any, namespace: Any, given: Any, option_string: str | None = None) -> None:
        leaves = _leaves(namespace)
        prefix = COMPILATION if self.dest == "compilation_config" else KERNEL
        path, equals, value = given.partition("=")
        if given.lstrip().startswith("{") or not equals:
            leaves.merge(prefix, given)
        else:
            leaves.assign(prefix, path.removesuffix("+"), value, append=path.endswith("+"))


class _LeafAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, given: Any, option_string: str | None = None) -> None:
        value = ",".join(given) if isinstance(given, list) else given
        _leaves(namespace).set(COMPILATION + self.dest, value, option_string)


class _EagerAction(argparse.BooleanOptionalAction):
    def __call__(self, parser: Any, namespace: Any, given: Any, option_string: str | None = None) -> None:
        leaves = _leaves(namespace)
        if option_string is not None and not option_string.startswith("--no-"):
            set_eager(leaves)
            return
        for key in [k for k, user in leaves.settings.items() if user.flag == "--enforce-eager"]:
            del leaves.settings[key]


class _IgnoredAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, given: Any, option_string: str | None = None) -> None:
        reason = IGNORED_FLAGS[self.dest.removeprefix("ignored_")].reason
        _leaves(namespace).notices.append(f"{option_string} is accepted without effect: {reason}")


def _leaves(namespace: argparse.Namespace) -> Leaves:
    if not isinstance(getattr(namespace, "leaves", None), Leaves):
        namespace.leaves = Leaves()
    leaves: Leaves = namespace.leaves
    return leaves


def add_engine_arguments(
    parser: argparse.ArgumentParser, *, model: Literal["positional", "flag", "both"]
) -> None:
    """Add every flag of the engine. `model` says how the model is named: `MODEL`, `--model MODEL` or either."""
    groups = {
        "model": parser.add_argument_group("model"),
        "cache": parser.add_argument_group("KV cache"),
        "scheduler": parser.add_argument_group("scheduler"),
        "parallel": parser.add_argument_group("threads"),
    }
    levels = parser.add_argument_group("levels and what they set")
    if model in ("positional", "both"):
        parser.add_argument(
            "model_argument", nargs="?", metavar="MODEL", help=_help(ENGINE_KEYS["model.model"])
        )
    for key in ENGINE_KEYS.values():
        group = groups.get(key.key.partition(".")[0], levels)
        if key.name != "model" or model != "positional":
            _add_key(group, key)
    _add_objects(levels)
    for name, ignored in IGNORED_FLAGS.items():
        nargs: Any = {0: 0, 1: None, -1: "*"}[ignored.values]
        options = {"nargs": nargs, "action": _IgnoredAction, "help": argparse.SUPPRESS}
        flags = ["--" + name.replace("_", "-")]
        if ignored.values == 0:
            flags.append("--no-" + name.replace("_", "-"))
        parser.add_argument(*flags, dest="ignored_" + name, default=argparse.SUPPRESS, **options)


def _add_key(group: argparse._ArgumentGroup, key: Key) -> None:
    flags = [key.flag, *([key.short] if key.short else [])]
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
        "--enforce-eager",
        action=_EagerAction,
        default=None,
        help="no compilation, no graphs: -cc.mode=NONE -cc.cudagraph_mode=NONE",
    )
    for name in LEAF_FLAGS:
        several = COMPILATION_KEYS[COMPILATION + name].kind is not COMPILATION_KEYS[_MAX_SIZE].kind
        group.add_argument(
            "--" + name.replace("_", "-"),
            action=_LeafAction,
            metavar="N",
            nargs="+" if several else None,
            help=f"the same as -cc.{name}",
        )


_MAX_SIZE = COMPILATION + "max_cudagraph_capture_size"


def engine_args(namespace: argparse.Namespace) -> EngineArgs:
    """The engine's arguments from what `add_engine_arguments` added; `ConfigError` on a bad value."""
    given = {key.name: getattr(namespace, key.name, None) for key in ENGINE_KEYS.values()}
    positional = getattr(namespace, "model_argument", None)
    if positional is not None:
        if given["model"] not in (None, positional):
            raise ConfigError(f"the model is named twice: {positional} and --model {given['model']}")
        given["model"] = positional
    leaves = _leaves(namespace)
    args = EngineArgs(**given, compilation_config=leaves)
    args.user_settings()
    return args
