"""Models on the Hugging Face hub, through huggingface_hub, which is imported only when it is needed.

Its environment variables hold: ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``, ``HF_HOME`` and the
rest. Only the files that Ozone reads are downloaded. Without a connection the cache has to do.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ozone.errors import ModelFileError
from ozone.weights.gguf_file import is_projector
from ozone.weights.safetensors_source import FOREIGN_PREFIX, INDEX, PICKLED, SINGLE, pickle_refused

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"({_PART}(?:/{_PART})?)(?::([^:/][^:]*))?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json")
_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
_LISTED = 8

Choice = Callable[[Sequence[str]], list[str]]

# What the client's own reading of an answer raises where that is not the hub's JSON.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError)


def parse_hub_id(name: str) -> tuple[str, str | None] | None:
    """``owner/name`` or ``owner/name:file.gguf`` as (repository, file); None where it is neither."""
    match = _HUB_ID.fullmatch(name)
    if match is None or "--" in match[1] or ".." in match[1]:
        return None
    return match[1], match[2]


def download_model(
    repo: str, file: str | None, *, revision: str | None, download_dir: str | None, config_only: bool
) -> Path:
    """The local directory or ``.gguf`` file of a model on the hub, fetched where it is not cached yet."""

    def choose(names: Sequence[str]) -> list[str]:
        return files_to_fetch(repo, names, file, config_only=config_only)

    folder, names = _fetch(repo, choose, revision=revision, download_dir=download_dir)
    weights = [name for name in names if name.endswith(".gguf")]
    return folder / weights[0] if weights else folder


def download_tokenizer(repo: str, *, revision: str | None, download_dir: str | None) -> Path:
    """The local directory of a tokenizer on the hub."""

    def choose(names: Sequence[str]) -> list[str]:
        return [name for name in _TOKENIZER_FILES if name in names]

    return _fetch(repo, choose, revision=revision, download_dir=download_dir)[0]


def files_to_fetch(repo: str, names: Sequence[str], file: str | None, *, config_only: bool) -> list[str]:
    """Which of a repository's files a model needs: safetensors, or else one GGUF file."""
    top = [name for name in names if "/" not in name]
    tensors = [n for n in top if n.endswith(".safetensors") and not n.startswith(FOREIGN_PREFIX)]
    ggufs = sorted(name for name in names if name.endswith(".gguf") and not is_projector(name))
    if file is not None or (ggufs and not tensors):
        return [_choose_gguf(repo, ggufs, file)]
    if "config.json" not in top:
        raise ModelFileError(f"{repo}: the repository has neither a config.json nor GGUF files")
    if config_only:
        return ["config.json"]
    if not tensors:
        if any(PurePosixPath(name).suffix in PICKLED for name in names):
            raise pickle_refused(repo)
        raise ModelFileError(f"{repo}: the repository has neither safetensors nor GGUF files")
    if INDEX not in top and SINGLE in top:
        tensors = [SINGLE]
    return tensors + [name for name in top if name.endswith((".json", ".jinja"))]


def _choose_gguf(repo: str, ggufs: Sequence[str], file: str | None) -> str:
    """The GGUF file of that name or of that quantization (``Q4_K_M``); the only one where none is named."""
    matches = list(ggufs)
    if file is not None:
        quantization = re.compile(rf"(?i)(.*[-._/])?{re.escape(file)}\.gguf")
        matches = [file] if file in ggufs else [name for name in ggufs if quantization.fullmatch(name)]
    if len(matches) == 1:
        return matches[0]
    shown = matches or ggufs
    listed = ", ".join(shown[:_LISTED]) + (", ..." if len(shown) > _LISTED else "")
    if not matches:
        raise ModelFileError(f"{repo}: no file {file} (GGUF files there: {listed or 'none'})")
    raise ModelFileError(f"{repo}: name one of its {len(matches)} GGUF files as {repo}:FILE ({listed})")


def _fetch(
    repo: str, choose: Choice, *, revision: str | None, download_dir: str | None
) -> tuple[Path, list[str]]:
    """The snapshot directory with the chosen files in it, and their names."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    # The base class of every error of the HTTP library, whichever huggingface_hub is built on.
    network_errors: tuple[Any, ...] = (errors.HfHubHTTPError.__bases__[0], OSError)
    try:
        info = hub.HfApi().model_info(repo, revision=revision)
        listed = _listed_files(info)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise _explained(error, repo, revision) from None
    except (*network_errors, *_MALFORMED) as error:
        return _from_cache(repo, choose, error, revision=revision, download_dir=download_dir)
    names = choose(listed)
    cached = [
        hub.try_to_load_from_cache(repo, name, cache_dir=download_dir, revision=info.sha) for name in names
    ]
    if cached and all(isinstance(path, str) for path in cached):
        return _snapshot_of(str(cached[0]), names[0]), names
    try:
        folder = hub.snapshot_download(
            repo,
            revision=revision,
            cache_dir=download_dir,
            allow_patterns=[glob.escape(name) for name in names],
        )
    except (*network_errors, *_MALFORMED) as error:
        raise _explained(error, repo, revision) from None
    return Path(folder), names


def _listed_files(info: ModelInfo) -> list[str]:
    """The files that a repository lists, without names that would lead out of its directory."""
    names = [entry.rfilename for entry in info.siblings or []]
    commit = "main" if info.sha is None else info.sha
    if not all(isinstance(name, str) for name in names) or not _COMMIT.fullmatch(commit):
        raise ValueError("a commit or a file has a name that makes no sense")
    return [name for name in names if not name.startswith("/") and ".." not in PurePosixPath(name).parts]


def _from_cache(
    repo: str, choose: Choice, problem: Exception, *, revision: str | None, download_dir: str | None
) -> tuple[Path, list[str]]:
    """What earlier downloads have left, since the hub cannot be asked."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        folder = Path(
            hub.snapshot_download(
                repo, revision=revision, cache_dir=download_dir, local_files_only=True, allow_patterns=[]
            )
        )
    except errors.LocalEntryNotFoundError:
        raise _explained(problem, repo, revision) from None
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    try:
        return folder, choose(names)
    except ModelFileError:
        if any(name.endswith((".safetensors", ".gguf")) for name in names):
            raise
        raise _explained(problem, repo, revision) from None  # no more than the config was ever fetched


def _snapshot_of(path: str, name: str) -> Path:
    return Path(path).parents[name.count("/")]


def _explained(error: Exception, repo: str, revision: str | None) -> ModelFileError:
    """The hub's error as one line that says what would help."""
    from huggingface_hub import constants, errors

    match error:
        case errors.GatedRepoError():
            problem = f"is gated: accept its terms at {constants.ENDPOINT}/{repo} and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            problem = (
                f"is neither a local path nor a model at {constants.ENDPOINT}"
                " (where it is private: set HF_TOKEN)"
            )
        case errors.RevisionNotFoundError():
            problem = f"has no revision {revision}"
        case errors.OfflineModeIsEnabled():
            problem = "is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
        case ValueError() | TypeError() | KeyError() | AttributeError() if not isinstance(error, OSError):
            problem = f"cannot be fetched: {constants.ENDPOINT} did not answer as a hub does"
        case _:
            reason = str(error).strip().splitlines()
            problem = f"cannot be fetched from {constants.ENDPOINT}: {reason[0] if reason else repr(error)}"
    return ModelFileError(f"{repo}: {problem}")
