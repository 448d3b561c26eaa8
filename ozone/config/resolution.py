"""The state of a resolution under way: what the user set, what is decided so far, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ozone.config.leaves import EAGER_FLAG, UserValue
from ozone.config.model import ModelConfig
from ozone.config.platform import PlatformFacts
from ozone.config.schema import Setting
from ozone.config.values import show
from ozone.errors import ConfigError


class Resolution:
    """Settings by full key. A value that the user set enters first and is never changed."""

    def __init__(
        self,
        user: Mapping[str, UserValue],
        model: ModelConfig | None,
        platform: PlatformFacts,
        level: int,
    ) -> None:
        self.user = dict(user)
        self.model = model
        self.platform = platform
        self.level = level
        self.settings: dict[str, Setting] = {}
        self.notices: list[str] = []
        self._lowered: dict[str, list[str]] = {}
        for key, given in self.user.items():
            self.settings[key] = Setting(given.value, "user", f"set by {self.flag(key)}")

    @property
    def level_origin(self) -> str:
        return f"-O{self.level}"

    def value(self, key: str) -> Any:
        return self.settings[key].value

    def by_user(self, key: str) -> bool:
        return key in self.user

    def decided(self, key: str) -> bool:
        return key in self.settings

    def flag(self, key: str) -> str:
        """The user's own words for `key`, with its value."""
        given = self.user[key]
        if "=" in given.flag or given.flag == EAGER_FLAG:
            return given.flag
        if isinstance(given.value, bool):
            return given.flag if given.value else given.flag.replace("--", "--no-", 1)
        return f"{given.flag} {show(given.value)}"

    def put(self, key: str, value: Any, origin: str, reason: str) -> None:
        """Decide `key`, unless the user or a requirement has."""
        self.settings.setdefault(key, Setting(value, origin, reason))

    def require(self, key: str, value: Any, by: str, reason: str) -> None:
        """Raise `key` to what the user's value of `by` needs; an error where the user said otherwise."""
        if self.by_user(key):
            if self.value(key) != value:
                raise self.contradiction(by, key, reason)
            return
        self.put(key, value, f"required by {by}", reason)

    def contradiction(self, first: str, second: str, reason: str) -> ConfigError:
        """The error for two values of the user that exclude each other."""
        return ConfigError(f"{self.flag(first)} and {self.flag(second)} contradict each other: {reason}")

    def lower(self, key: str, wanted: Any, value: Any, origin: str, reason: str) -> None:
        """Decide `key` below what the level wants, and say so once."""
        if self.decided(key):
            return
        self.put(key, value, origin, reason)
        if wanted != value:
            name = key.rsplit(".", 1)[-1]
            self._lowered.setdefault(reason, []).append(f"{name} from {show(wanted)} to {show(value)}")

    def all_notices(self) -> tuple[str, ...]:
        """Every line for the user: one for all that was lowered for the same reason."""
        lowered = (
            f"{self.level_origin}: lowered {', '.join(changes)}, because {reason}"
            for reason, changes in self._lowered.items()
        )
        return (*self.notices, *lowered)
