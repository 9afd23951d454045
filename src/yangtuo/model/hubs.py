"""Models by name: fetched from Hugging Face or ModelScope by the client of each, and kept where that keeps them.

Both clients take up a connection that breaks where it broke. A command that is given again fetches no file twice;
ModelScope's goes on inside a file too, huggingface_hub 2.4 begins an unfinished file anew.
"""

import contextlib
import hashlib
import importlib.util
import io
import logging
import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm.auto import tqdm

from yangtuo.config.choices import Hub
from yangtuo.config.schema import ModelArguments
from yangtuo.config.words import wide_signs
from yangtuo.errors import MissingDependencyError, ModelError, one_line
from yangtuo.logs import rank

logger = logging.getLogger(__name__)

_MIRRORS = "--hub modelscope (USE_MODELSCOPE_HUB=1), or HF_ENDPOINT=https://hf-mirror.com with HF_HUB_DISABLE_XET=1"
_MOST_TOLD = 200  # characters of what a client says
_PART_OF_FILE = re.compile(r"\.incomplete$|\.parallel_tmp$|_\d+_\d+$")  # as ModelScope's client names them
_BLOCK = 1 << 24  # bytes of a file that are hashed at once


@dataclass(frozen=True)
class Source:
    """Where a model is fetched from, if it is given by name.

    Attributes:
        hub: as asked for, see `hub_of`.
        cache_dir: where it is kept; None for the hub's own cache.
        revision: branch, tag or commit; None for the hub's main one.
    """

    hub: Hub = Hub.AUTO
    cache_dir: str | None = None
    revision: str | None = None


def source_of(model: ModelArguments) -> Source:
    """That of a run's base."""
    return Source(Hub(model.hub), model.cache_dir, model.model_revision)


def hub_of(asked: Hub) -> Hub:
    """The hub itself; auto goes by the variable that LLaMA-Factory goes by, and reads it as that does."""
    if asked is not Hub.AUTO:
        return asked
    says_so = os.environ.get("USE_MODELSCOPE_HUB", "").lower() in ("1", "true", "y")
    return Hub.MODELSCOPE if says_so else Hub.HUGGINGFACE


def keep_to_mirror() -> None:
    """Have huggingface_hub fetch from a mirror what the mirror is asked for.

    With Xet it would take the files from Hugging Face's own hosts, which those who name a mirror may not reach
    (huggingface_hub#4475). The library reads the variable when it is imported, so this is called before. A value that
    the user has set stays.
    """
    if _is_mirror(os.environ.get("HF_ENDPOINT", "")):
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")


def _is_mirror(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname
    return host is not None and host != "huggingface.co" and not host.endswith(".huggingface.co")


def fetch(name: str, source: Source, *, option: str, patterns: Sequence[str] | None) -> Path:
    """The folder of a hub's model, with all its files or those that fit the patterns.

    Raises:
        ModelError: the hub does not answer and not all is kept here, has no such model, or sends another file than it
            lists.
        MissingDependencyError: ModelScope's client is not installed.
    """
    by_hub = {Hub.HUGGINGFACE: _from_hugging_face, Hub.MODELSCOPE: _from_modelscope}
    folder = by_hub[hub_of(source.hub)](name, source, option, patterns)
    logger.info("--%s %s: in %s", option, name, folder)
    return folder


def _from_hugging_face(name: str, source: Source, option: str, patterns: Sequence[str] | None) -> Path:
    from huggingface_hub import constants, errors, snapshot_download

    asked = f"Hugging Face ({constants.ENDPOINT})"
    logger.info("--%s %s: asked of %s%s", option, name, asked, _of_xet(constants.HF_HUB_DISABLE_XET))
    of_httpx = errors.HTTPError  # type: ignore[attr-defined]  # what it lets through where a connection ends
    known = _blobs(name, source.cache_dir or constants.HF_HUB_CACHE)
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=source.revision,
                cache_dir=source.cache_dir,
                allow_patterns=None if patterns is None else list(patterns),
                tqdm_class=_Bar,
            )
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise _has_not(name, option, asked, error, "--hub modelscope asks ModelScope") from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise _is_offline(name, option, asked, error) from error
        raise _is_silent(name, option, asked, error.__cause__ or error) from error
    except (of_httpx, OSError, ValueError) as error:
        raise _is_silent(name, option, asked, error) from error
    _check_blobs(folder, known, f"--{option} {name}", asked)
    return folder


def _blobs(name: str, cache_dir: str) -> set[str]:
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(cache_dir).expanduser() / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _of_xet(is_off: bool) -> str:
    """What a mirror means for the way that files take; nothing where there is none."""
    if not _is_mirror(os.environ.get("HF_ENDPOINT", "")) or importlib.util.find_spec("hf_xet") is None:
        return ""
    if is_off:
        return ", without Xet, which would fetch past the mirror (HF_HUB_DISABLE_XET=1)"
    return "; with Xet its files come from other hosts than the mirror: HF_HUB_DISABLE_XET=1 keeps to it"


def _check_blobs(folder: Path, known: Collection[str], about: str, asked: str) -> None:
    """Compare what has come with its names in the hub's cache, which are its hashes; the library looks at sizes alone.

    What is `known` was here before and is not read again. A cache without links (Windows) does not have those names.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_symlink()):
        blob = path.parent / os.readlink(path)  # which may be a link too, to a name that is no hash of the file
        if blob.name in known or not blob.is_file():
            continue
        found = _hash_as(blob)
        if found not in (None, blob.name):
            path.unlink()
            blob.unlink()
            raise ModelError(
                f"{about}: {path.name} came with the hash {found}, and {asked} lists {blob.name}; it is deleted, and "
                "the same command fetches it again"
            )


def _hash_as(blob: Path) -> str | None:
    """The hash of a file, of the kind that its name is; None for a name that is none."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return None
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size)  # git's
    with blob.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _from_modelscope(name: str, source: Source, option: str, patterns: Sequence[str] | None) -> Path:
    try:
        from modelscope_hub import errors
    except ImportError as error:
        raise MissingDependencyError(
            f"--{option} {name}: modelscope-hub, the client of ModelScope, is not installed; pip install "
            "'yangtuo[modelscope]' (in a checkout: pip install -e '.[modelscope]')"
        ) from error
    from huggingface_hub import is_offline_mode

    # Its lines on every step and on errors, which we tell ourselves, are not wanted; those on new attempts are.
    logging.getLogger("modelscope_hub.download").addFilter(lambda record: record.levelno == logging.WARNING)
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or "https://modelscope.cn"
    asked = f"ModelScope ({endpoint})"
    logger.info("--%s %s: asked of %s", option, name, asked)
    try:
        return _modelscopes_folder(name, source, patterns, is_offline=is_offline_mode())
    except (errors.HubError, OSError, RuntimeError) as error:  # the last of a user without a home folder
        if isinstance(error, errors.NetworkError) and (kept := _whole_in_cache(name, source, patterns)):
            told = "%s does not answer (%s); --%s %s is taken as it was fetched before"
            logger.warning(told, asked, one_line(error, _MOST_TOLD), option, name)
            return kept
        raise _of_modelscope(name, option, asked, error) from error


def _modelscopes_folder(name: str, source: Source, patterns: Sequence[str] | None, *, is_offline: bool) -> Path:
    from modelscope_hub.compat import snapshot_download

    with contextlib.nullcontext() if rank() == 0 else contextlib.redirect_stderr(io.StringIO()):  # the bars of one
        return Path(
            snapshot_download(
                name,
                revision=source.revision,
                cache_dir=source.cache_dir,
                allow_patterns=None if patterns is None else list(patterns),
                local_files_only=is_offline,
            )
        )


def _whole_in_cache(name: str, source: Source, patterns: Sequence[str] | None) -> Path | None:
    """What was fetched before, if nothing of it was cut off; huggingface_hub looks at this itself."""
    from modelscope_hub.errors import CacheNotFound

    try:
        folder = _modelscopes_folder(name, source, patterns, is_offline=True)
    except CacheNotFound:
        return None
    return None if any(_PART_OF_FILE.search(path.name) for path in folder.rglob("*")) else folder


def _of_modelscope(name: str, option: str, asked: str, error: Exception) -> ModelError:
    from modelscope_hub import errors

    failed = error.failed_files if isinstance(error, errors.FileDownloadError) else {}
    for path, each in failed.items():
        if isinstance(each, errors.FileIntegrityError):
            told = f"{path} is not as it is listed: {one_line(each, _MOST_TOLD)}"
            return ModelError(f"--{option} {name}: {asked}: {told}; the same command fetches it again")
    if isinstance(error, errors.CacheNotFound):
        return _is_offline(name, option, asked, error)
    if isinstance(error, errors.APIError) or isinstance(error.__cause__, errors.APIError):
        return _has_not(name, option, asked, error, "--hub huggingface asks Hugging Face")
    return _is_silent(name, option, asked, error)


def _has_not(name: str, option: str, asked: str, error: Exception, other: str) -> ModelError:
    return ModelError(
        f"--{option} {name}: no such folder, and {asked} has no such model, or not for this user "
        f"({one_line(error, _MOST_TOLD)}); {other}{wide_signs(name)}"
    )


def _is_silent(name: str, option: str, asked: str, error: BaseException) -> ModelError:
    return ModelError(
        f"--{option} {name}: no such folder, and {asked} did not send a model of that name "
        f"({one_line(error, _MOST_TOLD)}); what has come is kept. Other places: {_MIRRORS}{wide_signs(name)}"
    )


def _is_offline(name: str, option: str, asked: str, error: Exception) -> ModelError:
    return ModelError(
        f"--{option} {name}: no such folder, and {asked} is not asked, since HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE "
        f"is set ({one_line(error, _MOST_TOLD)}). Without it: {_MIRRORS}{wide_signs(name)}"
    )


class _Bar(tqdm):  # type: ignore[type-arg]  # generic for type checkers alone
    """One rank's, and where it is no terminal that reads, a line of it each half minute."""

    def __init__(self, *args: Any, **how: Any) -> None:
        how["disable"] = rank() != 0
        if not sys.stderr.isatty():
            how["mininterval"] = 30.0
        super().__init__(*args, **how)
