"""The command line's spellings: levels, config objects, dashes and underscores, no abbreviations.

`ArgumentParser` behaves as argparse does, but for these; every mistake is one line on stderr and exit 2.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn

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
from ozone.config.switches import SwitchAction, readings
from ozone.errors import ConfigError, escaped

if TYPE_CHECKING:
    from ozone.config.config_file import FileSetting

_OBJECT = re.compile(r"(-cc|--compilation-config|--kernel-config)(?:\.([^=+]+?))?(\+?=)(.*)", re.DOTALL)
_OBJECT_FLAGS = {"-cc": COMPILATION, "--compilation-config": COMPILATION, "--kernel-config": KERNEL}
_LEVEL = re.compile(r"-O=?(.+)", re.DOTALL)
CONFIG_FLAG = "--config"
# Hyphens, dashes and minus signs that text programs put in the place of "-".
_OTHER_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_KINDS = {key.name: key.kind for key in ENGINE_KEYS.values()}
_NUMBER = re.compile(r"-\d+$|-\d*\.\d+(e[+-]?\d+)?$", re.IGNORECASE)


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with vLLM's spellings, one-line errors and nearest-name hints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        # Options of vLLM's that change nothing, with the reason, by their long name.
        self._accepted: dict[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """One line on stderr and exit 2."""
        print(f"ozone: error: {escaped(' '.join(message.split()))}", file=sys.stderr)
        sys.exit(2)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        try:
            words, file = self._take_config_file(list(sys.argv[1:] if args is None else args))
            words = self._respell(words)
            if file is not None:
                namespace = namespace or argparse.Namespace()
                self._apply_config_file(file, words, namespace)
            parsed, rest = super().parse_known_args(words, namespace)
            for flag, reason in self._accepted.items():
                _leaves(parsed).ignore(flag, reason)
            return parsed, rest
        except ConfigError as error:
            self.error(str(error))

    def _take_config_file(self, words: list[str]) -> tuple[list[str], str | None]:
        """The words without `--config FILE`, and the file."""
        if CONFIG_FLAG not in self._option_string_actions:
            return words, None
        others: list[str] = []
        files: list[str] = []
        waiting = deque(words)
        while waiting:
            word = waiting.popleft()
            if word == "--":
                others += [word, *waiting]
                break
            if word == CONFIG_FLAG and waiting:
                files.append(waiting.popleft())
            elif word == CONFIG_FLAG or word.startswith(CONFIG_FLAG + "="):
                files.append(word.partition("=")[2])
            else:
                others.append(word)
        if len(files) > 1:
            raise ConfigError(f"{CONFIG_FLAG} is given {len(files)} times; there can be one file")
        if files and not files[0]:
            raise ConfigError(f"{CONFIG_FLAG}: a value is missing")
        return others, files[0] if files else None

    def _apply_config_file(self, path: str, words: list[str], namespace: argparse.Namespace) -> None:
        """Do what the file says, but for what the command line's `words` say otherwise."""
        from ozone.config.config_file import read_config_file

        known = self._option_string_actions
        typed = {known[flag].dest for word in words if (flag := word.partition("=")[0]) in known}
        for setting in read_config_file(path):
            try:
                self._apply_setting(setting, typed, namespace)
            except (ConfigError, argparse.ArgumentError) as error:
                message = error.message if isinstance(error, argparse.ArgumentError) else str(error)
                name = "" if self._flag_of(setting) in message else f"{setting.name}: "
                raise ConfigError(f"{path} line {setting.line}: {name}{message}") from None

    def _apply_setting(self, setting: FileSetting, typed: set[str], namespace: argparse.Namespace) -> None:
        words = self._respell(self._words_of(setting))
        if not words:
            return
        flag, equals, value = words[0].partition("=")
        action = self._option_string_actions[flag]
        if isinstance(action, argparse._HelpAction) or flag == CONFIG_FLAG:
            raise ConfigError("it belongs on a command line")
        if action.dest in typed and not isinstance(action, _LeavesAction):
            return
        values = self._get_values(action, [value] if equals else words[1:])
        if action.dest in _KINDS and action.nargs != 0:
            _KINDS[action.dest](values, flag)
        positional = next((one for one in self._actions if one.dest == "model_argument"), None)
        if action.dest == "model" and positional is not None:
            positional.default = values  # stands where the command line names no model
        else:
            action(self, namespace, values, flag)

    @staticmethod
    def _flag_of(setting: FileSetting) -> str:
        name, dot, path = setting.name.partition(".")
        return "--" + name.replace("_", "-") + dot + path

    def _words_of(self, setting: FileSetting) -> list[str]:
        """A line of a config file as words of a command line; none where it says nothing."""
        from ozone.config.config_file import word, words

        flag = self._flag_of(setting)
        action = self._option_string_actions.get(flag)
        if setting.value is None:
            return []
        if isinstance(setting.value, list) and (action is None or action.nargs == "+") and "." not in flag:
            return [flag, *words(setting.value)] if setting.value else []
        if isinstance(setting.value, bool) and action is not None and action.nargs == 0:
            has_opposite = self._respell_switch(flag, "false") != [f"{flag}=false"]
            return [f"{flag}={word(setting.value)}"] if has_opposite else [flag] * setting.value
        return [f"{flag}={word(setting.value)}"]

    def _respell(self, words: list[str]) -> list[str]:
        """The command line in argparse's own terms; `ConfigError` on an unknown flag."""
        known = self._option_string_actions
        result: list[str] = []
        waiting = deque(words)
        while waiting:
            word = waiting.popleft()
            ends_here = self._subparsers is not None and not word.startswith("-")
            if word == "--" or ends_here:  # the rest belongs to positionals, or to a parser below this one
                result += [word, *waiting]
                break
            self._refuse_slips(word, waiting)
            if not word.startswith("-") or word == "-" or _NUMBER.match(word) or " " in word.split("=", 1)[0]:
                result.append(word)
                continue
            flag, equals, value = word.partition("=")
            if flag.startswith("--"):
                name, dot, path = flag.partition(".")
                flag = name.replace("_", "-") + dot + path
            if flag.partition(".")[0] in _OBJECT_FLAGS and flag.partition(".")[0] in known:
                result += self._respell_object(flag + equals + value, waiting)
            elif "-O" in known and flag == "-O" and not equals:
                result.append("--optimization-level")
            elif "-O" in known and (level := _LEVEL.fullmatch(word)):
                if level[1] == "=":
                    raise ConfigError("-O: a value is missing")
                if level[1].startswith("."):
                    raise ConfigError(f"{word}: config keys are spelled -cc{level[1]}")
                result.append(f"--optimization-level={level[1]}")
            elif flag in known:
                result += self._respell_switch(flag, value) if equals else [flag]
            elif not flag.startswith("--") and flag[:2] in known and len(flag) > 2:
                result.append(word)
            elif (switch := self._other_switch(flag)) is not None:
                result += self._respell_switch(switch, value if equals else "true")
            elif not self._answer_vllm(flag, value if equals else None, waiting):
                raise ConfigError(self._unknown(flag))
        return result

    def _refuse_slips(self, word: str, waiting: deque[str]) -> None:
        """Say what is wrong with a word that would be taken for something else."""
        dashes = word[: len(word) - len(word.lstrip("-" + _OTHER_DASHES))]
        if dashes.strip("-") and word[len(dashes) :].partition("=")[0].isidentifier():
            code = f"U+{ord(dashes.strip('-')[0]):04X}"
            raise ConfigError(f"{word} begins with a dash of another kind, {code}; flags begin with -")
        if not any(action.dest == "model_argument" for action in self._actions):
            return  # words may be text, such as a prompt
        flag, space, rest = word.partition(" ")
        action = self._option_string_actions.get(flag)
        if action is None:
            return
        if space:
            raise ConfigError(f"{word!r} is one word; write {flag} and {rest.strip()} as two")
        if action.nargs == 0 and not isinstance(action, argparse._HelpAction):
            values.refuse_word_of_switch(flag, waiting[0] if waiting else "")

    def _respell_object(self, word: str, waiting: deque[str]) -> list[str]:
        if re.match(r"[^=]*\.(=|$)", word):
            raise ConfigError(f"{word}: a key is missing")
        match = _OBJECT.fullmatch(word)
        if match is not None:
            flag, path, operator, value = match.groups()
        else:
            flag, _, path = word.partition(".")
            operator = "+=" if path.endswith("+") else "="
            path = path.removesuffix("+")
            value = waiting.popleft() if waiting else None
            if value is None or value.startswith("--") or value in self._option_string_actions:
                raise ConfigError(f"{word}: a value is missing")
        if not path:
            return [f"{flag}={value}"] if flag.startswith("--") else ["--compilation-config=" + value]
        long = "--kernel-config" if flag == "--kernel-config" else "--compilation-config"
        return [f"{long}={path}{operator}{value}"]

    def _respell_switch(self, flag: str, value: str) -> list[str]:
        """`--flag=false` as `--no-flag`."""
        action = self._option_string_actions[flag]
        if isinstance(action, SwitchAction):
            return [action.respelled(flag, value)]
        negative = next((s for s in action.option_strings if s.startswith("--no-")), None)
        if action.nargs != 0 or negative is None:
            return [f"{flag}={value}"]
        on = values.boolean(value, flag) != flag.startswith("--no-")
        return [next(s for s in action.option_strings if s.startswith("--no-") != on)]

    def _other_switch(self, flag: str) -> str | None:
        """The switch or the `--no-` form that another name means, such as `--disable-x` for `--enable-x`."""
        for name, on in readings(flag) if flag.startswith("--") else ():
            positive, negative = name, "--no-" + name.removeprefix("--")
            if negative in self._option_string_actions:
                return positive if on else negative
        return None

    def _answer_vllm(self, flag: str, value: str | None, waiting: deque[str]) -> bool:
        """Whether vLLM has `flag` and Ozone can do without; takes the words of its value from `waiting`."""
        if not self._is_engines:
            return False
        from ozone.config.vllm_answers import answer_flag  # only needed for what Ozone has not

        answered = answer_flag(flag, value, waiting, self._is_flag)
        if answered is None:
            return False
        option, reason = answered
        if reason:
            self._accepted[option] = reason
        return True

    def _is_flag(self, word: str) -> bool:
        return word in self._option_string_actions or (word.startswith("-") and not _NUMBER.match(word))

    @property
    def _is_engines(self) -> bool:
        return "--tensor-parallel-size" in self._option_string_actions

    def _unknown(self, flag: str) -> str:
        from ozone.config.upstream import ACCEPTED_FLAGS, nearest_flag  # only needed where something is wrong

        names = [*self._option_string_actions, *(_flag(name) for name in ACCEPTED_FLAGS if self._is_engines)]
        return f"there is no flag {flag}{nearest_flag(flag, names)}"


class _LeavesAction(argparse.Action):
    """An action that changes the config objects' leaves set so far, in the order of the command line."""

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
        help="flags in YAML, such as `max-model-len: 4096`; what the command line says as well, it decides",
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
    args = EngineArgs(**given, compilation_config=_leaves(namespace))
    args.user_settings()
    return args
