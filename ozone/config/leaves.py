"""User settings of the config objects, merged leaf by leaf in the order in which they were made."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ozone.config.keys import COMPILATION, KERNEL, KEYS, LIST_KEYS, MAPPING_KEYS
from ozone.config.values import from_json, show
from ozone.errors import ConfigError, shown

EAGER_FLAG = "--enforce-eager"
SPELLING = {COMPILATION: "-cc", KERNEL: "--kernel-config"}


@dataclass(frozen=True)
class UserValue:
    """A value that the user set, and the flag to name in messages about it."""

    value: Any
    flag: str


def spelled(key: str, value: object) -> str:
    """`key` and `value` as a command line would say it."""
    return f"{KEYS[key].flag}={show(value)}"


@dataclass
class Leaves:
    """Settings made so far, by full key. Later ones win; `notices` are warnings for the user."""

    settings: dict[str, UserValue] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def set(self, key: str, value: object, flag: str | None = None) -> None:
        """Set one leaf; None (JSON's null) means not set."""
        if value is None:
            self.settings.pop(key, None)
            return
        parsed = KEYS[key].kind(value, KEYS[key].flag)
        self.settings[key] = UserValue(parsed, flag or spelled(key, parsed))

    def ignore(self, flag: str, reason: str) -> None:
        """Warn, once, about something that is accepted without effect."""
        from ozone.config.upstream import accepted  # only needed for what Ozone has not

        notice = accepted(flag, reason)
        if notice not in self.notices:
            self.notices.append(notice)

    def agree(self, key: str, value: object, flag: str | None = None) -> None:
        """Set one leaf; another user value for it is an error, since Python's arguments have no order."""
        before = self.settings.get(key)
        self.set(key, value, flag)
        after = self.settings.get(key)
        if before is not None and after is not None and before.value != after.value:
            raise ConfigError(f"{before.flag} and {after.flag} contradict each other")

    def append(self, key: str, value: object) -> None:
        """Extend the list that earlier settings gave to `key`."""
        if key not in LIST_KEYS:
            raise ConfigError(f"{KEYS[key].flag}+=: only lists can be appended to")
        before = self.settings[key].value if key in self.settings else ()
        # Words are read as a list of their own first, so that JSON and plain words both append.
        added = KEYS[key].kind(value, KEYS[key].flag)
        self.set(key, before + added)

    def merge(self, prefix: str, tree: object) -> None:
        """Merge a config object: a mapping (nested or with dotted keys), JSON text, or a config class."""
        for path, value in _flatten(_mapping_of(tree, SPELLING[prefix])):
            self.assign(prefix, path, value)

    def assign(self, prefix: str, path: str, value: object, *, append: bool = False) -> None:
        """Set or extend the leaf at `path`, a dotted name inside the config object."""
        path = path.replace("-", "_")
        key = prefix + path
        for mapping_key in MAPPING_KEYS:
            if key.startswith(mapping_key + "."):
                self._set_in_mapping(mapping_key, key.removeprefix(mapping_key + "."), value)
                return
        if value == "null":
            value = None
        if key in MAPPING_KEYS and value is not None:
            self.settings.setdefault(key, UserValue({}, spelled(key, {})))
            for name, item in KEYS[key].kind(value, KEYS[key].flag).items():
                self._set_in_mapping(key, name, item)
            return
        if key in KEYS:
            if append:
                self.append(key, value)
            else:
                self.set(key, value)
            return
        if not self._answer_vllm(prefix, path, value):
            self.merge_below(prefix, path, value)

    def _answer_vllm(self, prefix: str, path: str, value: object) -> bool:
        """Answer a key that vLLM has and Ozone has not; False for an object of which Ozone has parts."""
        from ozone.config.neutral import asks_for_nothing  # only needed for what Ozone has not
        from ozone.config.upstream import ACCEPTED_KEYS, REFUSED_KEYS, nearest, refusal

        key, flag = prefix + path, f"{SPELLING[prefix]}.{path}"
        for known, reason in REFUSED_KEYS.items():
            if key == known and asks_for_nothing(key, value):
                return True
            if key == known or key.startswith(known + "."):
                raise ConfigError(refusal(flag, reason))
        for known, reason in ACCEPTED_KEYS.items():
            if key == known or key.startswith(known + "."):
                if not asks_for_nothing(key, value):
                    self.ignore(f"{SPELLING[prefix]}.{known.removeprefix(prefix)}", reason)
                return True
        if any(name.startswith(key + ".") for name in KEYS):
            return False
        names = [name.removeprefix(prefix) for name in KEYS if name.startswith(prefix)]
        hint = nearest(path, names, f"; there are {', '.join(names)}")
        raise ConfigError(f"{flag}: there is no such key{hint}")

    def merge_below(self, prefix: str, path: str, value: object) -> None:
        """Merge a whole sub-object, such as `-cc.pass_config='{"fuse_norm_quant": true}'`."""
        if value is None or value == "null":
            return
        for below, leaf in _flatten(_mapping_of(value, f"{SPELLING[prefix]}.{path}")):
            self.assign(prefix, f"{path}.{below}", leaf)

    def _set_in_mapping(self, key: str, name: str, value: object) -> None:
        before = dict(self.settings[key].value) if key in self.settings else {}
        if isinstance(value, str):
            with contextlib.suppress(ValueError):  # a bare word is text
                value = from_json(value)
        before.pop(name, None)
        if value is not None:
            before[name] = value
        self.set(key, before)


def _mapping_of(tree: object, where: str) -> Mapping[str, Any]:
    if isinstance(tree, str):
        try:
            tree = from_json(tree)
        except ValueError as error:
            raise ConfigError(
                f"{where}: {shown(tree)} is neither KEY=VALUE nor a JSON object ({error})"
            ) from None
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return {f.name: getattr(tree, f.name) for f in dataclasses.fields(tree)}
    if not isinstance(tree, Mapping):
        raise ConfigError(
            f'{where}: {shown(tree)} is not a config object; give JSON such as {{"mode": "NONE"}}'
        )
    return tree


def _flatten(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        path = f"{before}{name}".replace("-", "_")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = _mapping_of(value, path)
        if isinstance(value, Mapping) and COMPILATION + path not in MAPPING_KEYS:
            yield from _flatten(value, path + ".")
        else:
            yield path, value
