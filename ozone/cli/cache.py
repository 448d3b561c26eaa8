"""`ozone cache`: what is kept between starts, listed and cleared. Never imports torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ozone.compilation.artifact_file import DamagedArtifactError, unpack
from ozone.compilation.artifact_store import ArtifactStore, Entry, UnusableStoreError
from ozone.compilation.compile_process import ROOM as STARTS
from ozone.compilation.tuning.keeping import ROOM
from ozone.config.command_line import ArgumentParser
from ozone.config.compilation_settings import default_cache_dir
from ozone.engine.tokenizer import cache as tokenizers
from ozone.errors import ConfigError, clipped, escaped

_DESCRIPTION = """\
What Ozone keeps between starts: compiled programs, generated code, tuned kernels, and tokenizers rebuilt from
GGUF files.
All of it can be removed at any time; a later start makes again what it needs.

  ozone cache ls (or list)   what is kept: for which model and level, how large, when it was used last
  ozone cache clear          remove all of it
  ozone cache clear KEY ...  remove these; the first digits of a key are enough
  ozone cache path           the directory: -cc.cache_dir, else OZONE_CACHE_DIR, else ~/.cache/ozone"""
_KEY_DIGITS = 12


@dataclass(frozen=True)
class Row:
    """Something that is kept. `made` and `used` in seconds of `time.time`; `holds` says what it is."""

    kind: str
    key: str
    file: str
    size_bytes: int
    used: float
    made: float | None = None
    model: str | None = None
    level: int | None = None
    dtype: str | None = None
    isa: str | None = None
    holds: str = ""


def main(argv: list[str]) -> int:
    """Run `ozone cache`."""
    parser = ArgumentParser(
        prog="ozone cache", usage="ozone cache ls|clear|path [flags]", description=_DESCRIPTION
    )
    parser.add_argument("action", choices=("ls", "list", "clear", "path"), help="see above")
    parser.add_argument("keys", nargs="*", metavar="KEY", help="of clear: remove only these")
    parser.add_argument("-cc.cache_dir", dest="cache_dir", type=Path, metavar="DIR", help="the directory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    namespace = parser.parse_args(argv)
    directory = namespace.cache_dir or Path(default_cache_dir()[0])
    if namespace.keys and namespace.action != "clear":
        raise ConfigError(f"ozone cache {namespace.action} takes no KEY; ozone cache clear does")
    if namespace.action == "path":
        print(json.dumps({"path": str(directory)}) if namespace.json else directory)
        return 0
    rows = kept(directory)
    if namespace.action in ("ls", "list"):
        print(json.dumps(_as_json(directory, rows), indent=2) if namespace.json else _table(directory, rows))
        return 0
    removed = _chosen(rows, namespace.keys)
    _remove(directory, removed)
    print(json.dumps(_as_json(directory, removed), indent=2) if namespace.json else _removed(removed))
    return 0


def kept(directory: Path) -> list[Row]:
    """All that is kept under a cache directory, the last used first.

    Raises: `ConfigError` where its programs cannot be trusted or read.
    """
    rows = [_tokenizer(directory / "tokenizers", key) for key in tokenizers.keys(directory / "tokenizers")]
    for room, row in _ROOMS.items():
        if (directory / room).exists():
            with _store(directory, room) as store:
                rows += [row(store, entry) for entry in store.entries()]
    return sorted(rows, key=lambda row: -row.used)


def _store(directory: Path, room: str) -> ArtifactStore:
    try:
        return ArtifactStore(directory, room=room, create=False)
    except UnusableStoreError as error:
        raise ConfigError(str(error)) from None


def _tokenizer(directory: Path, key: str) -> Row:
    size, made = tokenizers.measure(directory, key)
    return Row(
        "tokenizer", key, str(directory / key), size, made, made, holds="tokenizer rebuilt from a GGUF file"
    )


def _program(store: ArtifactStore, entry: Entry) -> Row:
    return _compiled("programs", store, entry, _launches)


def _steps(store: ArtifactStore, entry: Entry) -> Row:
    return _compiled("steps", store, entry, _calls)


def _launches(made: dict[str, Any]) -> str:
    return f"{len(made['launches'])} pieces, {sum(made['launches'])} launches"


def _calls(made: dict[str, Any]) -> str:
    calls = made["calls"]["calls"]
    return f"{len(calls)} calls, of libraries {sum(call['library'] for call in calls)}"


def _compiled(
    room: str, store: ArtifactStore, entry: Entry, of_range: Callable[[dict[str, Any]], str]
) -> Row:
    """What was made of a model. `of_range`: what there is for a range of token counts."""

    def told(header: dict[str, Any]) -> dict[str, Any]:
        label = header["label"]
        holds = "; ".join(
            f"{made['first']}-{made['last']} tokens: {of_range(made)}" for made in header["ranges"]
        )
        named = {name: label.get(name) for name in ("model", "level", "dtype")}
        return {"made": label["made"], **named, "isa": header["key_parts"]["isa"], "holds": holds}

    return _row(room, store, entry, told)


def _library(store: ArtifactStore, entry: Entry) -> Row:
    def told(header: dict[str, Any]) -> dict[str, Any]:
        parts = header["key_parts"]
        holds = f"generated code for {parts['threads']} threads: {', '.join(header['ops'])}"
        return {"made": header["made"], "isa": parts["isa"].lower(), "holds": clipped(holds, 100)}

    return _row("libraries", store, entry, told)


def _start(store: ArtifactStore, entry: Entry) -> Row:
    def told(header: dict[str, Any]) -> dict[str, Any]:
        return {"holds": f"a server with some settings found programs {header['programs'][:_KEY_DIGITS]}"}

    return _row(STARTS, store, entry, told)


def _tuning(store: ArtifactStore, entry: Entry) -> Row:
    def told(header: dict[str, Any]) -> dict[str, Any]:
        parts = header["key_parts"]
        names = dict.fromkeys(Path(known["name"]).name for known in header["models"].values())
        models = ", ".join(names) or "none yet, the machine was busy"
        machine = f"{parts['threads']} threads of {parts['cpu_model']}"
        holds = f"tuning of {len(header['shapes'])} shapes for {machine}: {models}"
        return {"made": header["made"], "isa": parts["isa"], "holds": holds}

    return _row("tuning", store, entry, told)


_ROOMS = {"programs": _program, "steps": _steps, "libraries": _library, STARTS: _start, ROOM: _tuning}


def _row(
    kind: str, store: ArtifactStore, entry: Entry, told: Callable[[dict[str, Any]], dict[str, Any]]
) -> Row:
    """What the header of an artifact tells of it."""
    place = (kind, entry.key, str(store.file(entry.key)), entry.size, entry.used)
    try:
        header, _ = unpack(store.read(entry.key, use=False) or b"")
        return Row(*place, **told(header))
    except DamagedArtifactError as error:
        return Row(*place, holds=f"damaged: {error}")
    except OSError as error:
        return Row(*place, holds=f"unreadable: {error.strerror or error}")


def _chosen(rows: Sequence[Row], keys: Iterable[str]) -> list[Row]:
    keys = list(keys)
    if not keys:
        return list(rows)
    chosen = []
    for key in keys:
        found = [row for row in rows if row.key.startswith(key)]
        if len(found) != 1:
            what = "nothing that is kept begins" if not found else f"{len(found)} keys begin"
            raise ConfigError(f"{what} with {key}; see ozone cache ls")
        chosen += found
    return list(dict.fromkeys(chosen))


def _remove(directory: Path, rows: Iterable[Row]) -> None:
    try:
        for row in rows:
            if row.kind == "tokenizer":
                tokenizers.remove(directory / "tokenizers", row.key)
            else:
                with _store(directory, row.kind) as store:
                    store.remove(row.key)
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror or error}") from None


def _as_json(directory: Path, rows: Iterable[Row]) -> dict[str, Any]:
    return {"path": str(directory), "kept": [vars(row) for row in rows]}


def _removed(rows: Sequence[Row]) -> str:
    return f"removed {len(rows)} ({_size(sum(row.size_bytes for row in rows))})"


def _table(directory: Path, rows: Sequence[Row]) -> str:
    if not rows:
        return f"nothing is kept in {directory}"
    now = time.time()
    lines = [("key", "model", "level", "type", "size", "used", "holds")]
    lines += [
        (
            row.key[:_KEY_DIGITS],
            escaped(row.model or "-"),
            "-" if row.level is None else f"-O{row.level}",
            ", ".join(word for word in (row.dtype, row.isa) if word is not None) or "-",
            _size(row.size_bytes),
            age(now - row.used),
            escaped(row.holds),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    table = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)), line[-1]])
        for line in lines
    ]
    total = f"{len(rows)} in {directory}, {_size(sum(row.size_bytes for row in rows))}"
    return "\n".join([*table, total])


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def age(seconds: float) -> str:
    """So long ago, in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"
