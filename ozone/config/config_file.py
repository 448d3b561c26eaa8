"""Files of `--config`: flags in YAML, read with bounds, and done as a command line's are.

Nothing that a file says is run. What a flag means is its parser's business, see `parser.py`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from ozone.config.args import means_unset
from ozone.config.keys import ENGINE_KEYS
from ozone.config.parser import CONFIG_FLAG, ArgumentParser
from ozone.errors import ConfigError

if TYPE_CHECKING:
    import yaml

_KINDS = {key.name: key.kind for key in ENGINE_KEYS.values()}

_MOST_BYTES = 256 * 1024
# An alias repeats what it names, so that a small file may stand for very many values.
_MOST_VALUES = 10_000
_DEEPEST = 32
_NAME = re.compile(r"[A-Za-z][\w.+-]*", re.ASCII)


class FileSetting(NamedTuple):
    """One line of a config file: the flag that it names, without its dashes, and its value as YAML has it."""

    name: str
    value: Any
    line: int

    @property
    def flag(self) -> str:
        name, dot, path = self.name.partition(".")
        return "--" + name.replace("_", "-") + dot + path


def read_config_file(path: str) -> list[FileSetting]:
    """The settings of the YAML file at `path`, in their order. `ConfigError` names the line that is wrong."""
    import yaml  # takes 15 ms

    text = _read(path)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return []
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: a config file has lines like `max-model-len: 4096`")
        _check_size(path, node)
        lines = _lines(path, node)
        settings = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{_place(error)}: {_problem(error)}") from None
    except ConfigError:
        raise
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: a value is none: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: values are nested too deeply") from None
    return [FileSetting(_name(path, key, lines), value, lines.get(key, 0)) for key, value in settings.items()]


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"--config {path}: {reason}") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"--config {path}: larger than {_MOST_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"--config {path}: not a text in UTF-8") from None


def _check_size(path: str, node: yaml.Node) -> None:
    """Count the values that `node` stands for, aliases written out."""
    left = _MOST_VALUES

    def count(node: Any, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            line = node.start_mark.line + 1
            most = f"{_MOST_VALUES} values or {_DEEPEST} levels"
            raise ConfigError(f"{path} line {line}: a config file has at most {most}")
        for child in node.value if isinstance(node.value, list) else ():
            for part in child if isinstance(child, tuple) else (child,):
                count(part, depth + 1)

    count(node, 0)


def _lines(path: str, node: yaml.MappingNode) -> dict[str, int]:
    """The line of each key; a key that stands twice is an error."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.value in lines and isinstance(key.value, str):
            raise ConfigError(f"{path} line {line}: {key.value} is also in line {lines[key.value]}")
        if isinstance(key.value, str):
            lines[key.value] = line
    return lines


def _name(path: str, key: object, lines: dict[str, int]) -> str:
    if not isinstance(key, str) or not _NAME.fullmatch(key):
        line = f" line {lines[key]}" if isinstance(key, str) and key in lines else ""
        raise ConfigError(f"{path}{line}: {key!r} is not the name of a flag")
    return key


def _place(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f" line {mark.line + 1}"


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error)


def apply(path: str, parser: ArgumentParser, words: list[str], namespace: argparse.Namespace) -> None:
    """Do what the file says in `namespace`, but for what the command line's `words` say otherwise."""
    known = parser._option_string_actions
    typed = {known[flag].dest for word in words if (flag := word.partition("=")[0]) in known}
    for setting in read_config_file(path):
        try:
            _apply(setting, parser, typed, namespace)
        except (ConfigError, argparse.ArgumentError) as error:
            message = error.message if isinstance(error, argparse.ArgumentError) else str(error)
            name = "" if setting.flag in message else f"{setting.name}: "
            raise ConfigError(f"{path} line {setting.line}: {name}{message}") from None


def _apply(
    setting: FileSetting, parser: ArgumentParser, typed: set[str], namespace: argparse.Namespace
) -> None:
    words = parser.respell(_words_of(setting, parser))
    if not words:
        return
    flag, equals, value = words[0].partition("=")
    action = parser._option_string_actions[flag]
    if isinstance(action, argparse._HelpAction) or flag == CONFIG_FLAG:
        raise ConfigError("it belongs on a command line")
    if action.dest in typed and not getattr(action, "merges", False):
        return
    given = parser._get_values(action, [value] if equals else words[1:])
    if action.dest in _KINDS and action.nargs != 0 and not means_unset(action.dest, given):
        _KINDS[action.dest](given, flag)  # here, where the line is known
    positional = next((one for one in parser._actions if one.dest == "model_argument"), None)
    if action.dest == "model" and positional is not None:
        positional.default = given  # stands where the command line names no model
    else:
        action(parser, namespace, given, flag)


def _words_of(setting: FileSetting, parser: ArgumentParser) -> list[str]:
    """A setting as words of a command line; none where it says nothing."""
    flag, value = setting.flag, setting.value
    action = parser._option_string_actions.get(flag)
    if value is None or (value == [] and action is None and "." not in flag):
        return []
    if isinstance(value, list) and action is not None and action.nargs == "+":
        return [flag, *map(_word, value)] if value else []
    if isinstance(value, bool) and action is not None and action.nargs == 0:
        has_opposite = parser.respell_switch(flag, "false") != [f"{flag}=false"]
        return [f"{flag}={_word(value)}"] if has_opposite else [flag] * value
    return [f"{flag}={_word(value)}"]


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    try:
        return json.dumps(value, default=_unknown)
    except TypeError:
        raise ConfigError("a value of this kind is not read") from None


def _unknown(value: object) -> str:
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    raise TypeError
