"""The command line's spellings: levels, config objects, dashes and underscores, switches, no abbreviations.

`ArgumentParser` behaves as argparse does, but for these; every mistake is one line on stderr and exit 2.
The flags themselves are in `command_line.py`, and files of them in `config_file.py`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

from ozone.config import values
from ozone.config.keys import COMPILATION, KERNEL
from ozone.config.switches import SwitchAction, readings
from ozone.errors import ConfigError, OzoneError, escaped

_OBJECT = re.compile(r"(-cc|--compilation-config|--kernel-config)(?:\.([^=+]+?))?(\+?=)(.*)", re.DOTALL)
_OBJECT_FLAGS = {"-cc": COMPILATION, "--compilation-config": COMPILATION, "--kernel-config": KERNEL}
_LEVEL = re.compile(r"-O=?(.+)", re.DOTALL)
CONFIG_FLAG = "--config"
# Hyphens, dashes and minus signs that text programs put in the place of "-".
_OTHER_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_LONGEST = 2000  # characters of a message
_NUMBER = re.compile(r"-\d+$|-\d*\.\d+(e[+-]?\d+)?$", re.IGNORECASE)


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with vLLM's spellings, one-line errors and nearest-name hints."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)
        # Options of vLLM's that change nothing, with the reason, by their long name. See `engine_args`.
        self._accepted: dict[str, str] = {}

    def error(self, message: str) -> NoReturn:
        """One line on stderr and exit 2."""
        print(f"ozone: error: {escaped(' '.join(message.split()), _LONGEST)}", file=sys.stderr)
        sys.exit(2)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        # argparse takes every ValueError for one without a message of its own.
        convert = self._registry_get("type", action.type, action.type)
        try:
            return convert(arg_string)
        except OzoneError:
            raise
        except Exception:
            return super()._get_value(action, arg_string)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        try:
            words, file = self._take_config_file(list(sys.argv[1:] if args is None else args))
            words = self.respell(words)
            namespace = namespace or argparse.Namespace()
            if file is not None:
                from ozone.config.config_file import apply  # only needed with --config

                apply(file, self, words, namespace)
            namespace.accepted = self._accepted
            return super().parse_known_args(words, namespace)
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

    def respell(self, words: list[str]) -> list[str]:
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
            elif flag == "--help" and equals:
                self._help_about(value)
                result.append(flag)
            elif "-O" in known and flag == "-O" and not equals:
                result.append("--optimization-level")
            elif "-O" in known and (level := _LEVEL.fullmatch(word)):
                if level[1] == "=":
                    raise ConfigError("-O: a value is missing")
                if level[1].startswith("."):
                    raise ConfigError(f"{word}: config keys are spelled -cc{level[1]}")
                result.append(f"--optimization-level={level[1]}")
            elif flag in known:
                result += self.respell_switch(flag, value) if equals else [flag]
            elif not flag.startswith("--") and flag[:2] in known and len(flag) > 2:
                result.append(word)
            elif (switch := self._other_switch(flag)) is not None:
                result += self.respell_switch(switch, value if equals else "true")
            elif not self._answer_vllm(flag, value if equals else None, waiting):
                raise ConfigError(self._unknown(flag))
        return result

    def _help_about(self, word: str) -> None:
        """Let help show the flags with `word` in their names, or the group of that title; `all` shows all."""
        word = word.lower().replace("_", "-")
        groups = [group for group in self._action_groups if (group.title or "").lower() == word]
        shown = {action for group in groups for action in group._group_actions} or {
            action for action in self._actions if any(word in name.lower() for name in action.option_strings)
        }
        if word == "all":
            return
        if not shown:
            raise ConfigError(f"--help={word}: no flag has that in its name")
        for action in self._actions:
            if action not in shown:
                action.help = argparse.SUPPRESS

    def _refuse_slips(self, word: str, waiting: deque[str]) -> None:
        """Say what is wrong with a word that would be taken for something else."""
        dashes = word[: len(word) - len(word.lstrip("-" + _OTHER_DASHES))]
        if dashes.strip("-") and word[len(dashes) :].partition("=")[0].isidentifier():
            code = f"U+{ord(dashes.strip('-')[0]):04X}"
            raise ConfigError(f"{word} begins with a dash of another kind, {code}; flags begin with -")
        if not any(action.dest == "model_argument" for action in self._actions):
            return  # words may be text, such as a prompt
        if word.startswith("@"):
            raise ConfigError(f"{word}: flags in a file are read with {CONFIG_FLAG} FILE")
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

    def respell_switch(self, flag: str, value: str) -> list[str]:
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

        accepted = ACCEPTED_FLAGS if self._is_engines else ()
        names = [*self._option_string_actions, *("--" + name.replace("_", "-") for name in accepted)]
        return f"there is no flag {flag}{nearest_flag(flag, names)}"
