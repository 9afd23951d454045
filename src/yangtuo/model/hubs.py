"""Models by name: fetched from Hugging Face or ModelScope by the client of each, and kept where that keeps them.

Both clients take up a connection that breaks where it broke. A command that is given again fetches no file twice;
ModelScope's goes on inside a file too, huggingface_hub 2.4 begins an unfinished file anew.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from yangtuo import output
from yangtuo.config.choices import Hub
from yangtuo.config.schema import ModelArguments
from yangtuo.errors import MissingDependencyError, ModelError, one_line
from yangtuo.i18n import Message
from yangtuo.installing import pip_install
from yangtuo.logs import rank
from yangtuo.model.hub_bar import Bar
from yangtuo.model.hub_request import MOST_TOLD, HubRequest

logger = logging.getLogger(__name__)

_OTHER = "--hub modelscope (USE_MODELSCOPE_HUB=1)"
_MODELSCOPE = "https://modelscope.cn"
_WHOLE = ".yangtuo-whole"  # in a folder of ModelScope's cache: the files and sizes of when all had come
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
    if is_mirror(os.environ.get("HF_ENDPOINT", "")) and not os.environ.get("HF_HUB_DISABLE_XET"):
        os.environ["HF_HUB_DISABLE_XET"] = "1"


def host_of(endpoint: str) -> str | None:
    """The host of an address; None of one that names none, as an address without https:// does."""
    try:
        return urlsplit(endpoint).hostname
    except ValueError:
        return None


def is_mirror(endpoint: str) -> bool:
    """Whether Hugging Face is asked at an address of somebody else."""
    host = host_of(endpoint)
    return host is not None and host != "huggingface.co" and not host.endswith(".huggingface.co")


def modelscopes_endpoint() -> str:
    """Its address, as its client reads the environment."""
    return os.environ.get("MODELSCOPE_ENDPOINT") or os.environ.get("MODELSCOPE_DOMAIN") or _MODELSCOPE


def modelscopes_cache() -> Path:
    """Where its client keeps models; a home that is not there stays spelled."""
    return Path(os.path.expanduser(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope/hub"))


def fetch(name: str, source: Source, *, option: str, patterns: Sequence[str] | None) -> Path:
    """The folder of a hub's model, with all its files or those that fit the patterns.

    Raises:
        ModelError: the hub does not answer and not all is kept here, has no such model, or sends another file than it
            lists.
        MissingDependencyError: ModelScope's client is not installed.
    """
    from huggingface_hub import constants, is_offline_mode

    how = {
        "revision": source.revision,
        "cache_dir": source.cache_dir,
        "allow_patterns": None if patterns is None else list(patterns),
    }
    about = f"--{option} {name}"
    if hub_of(source.hub) is Hub.MODELSCOPE:
        asked, other, fetch_from, told = (
            f"ModelScope ({modelscopes_endpoint()})",
            "--hub huggingface",
            _from_modelscope,
            "",
        )
    else:
        asked, other, fetch_from = f"Hugging Face ({constants.ENDPOINT})", _OTHER, _from_hugging_face
        told = _of_xet(constants.ENDPOINT, is_off=constants.HF_HUB_DISABLE_XET)
    if not is_offline_mode():
        logger.info("%s: asked of %s", about, asked)
        if told:
            logger.info("%s: %s", about, told)
    folder = fetch_from(HubRequest(name, about, asked, other, how))
    logger.info("%s: it is in %s", about, folder)
    return folder


def _from_hugging_face(request: HubRequest) -> Path:
    from huggingface_hub import HfApi, constants, errors, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    of_httpx = errors.HTTPError  # type: ignore[attr-defined]  # what it lets through where a connection ends
    cache = Path(request.how["cache_dir"] or constants.HF_HUB_CACHE).expanduser()
    kept_as = cache / repo_folder_name(repo_id=request.name, repo_type="model")
    known = _blobs(kept_as)
    try:
        if not constants.HF_HUB_OFFLINE:  # else the library would take what is kept without a word
            HfApi().model_info(request.name, revision=request.how["revision"] or constants.DEFAULT_REVISION)
        return Path(snapshot_download(request.name, **request.how, tqdm_class=Bar))  # type: ignore[arg-type]  # wants tqdm.auto's, which imports asyncio
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise request.has_none(error) from error
    except (of_httpx, OSError, ValueError, RuntimeError) as error:  # the last of Xet
        _raise_of_disk(error)
        if constants.HF_HUB_OFFLINE:
            raise request.is_offline(error) from error
        if isinstance(error, of_httpx) and (kept := _kept_of_hugging_face(request)):
            request.tell_kept(error)
            return kept
        is_long = isinstance(error, errors.LocalEntryNotFoundError)  # about a cache, where the cause says why
        raise request.came_to_nothing((is_long and error.__cause__) or error) from error
    finally:
        Bar.close_all()
        if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
            _check_blobs(kept_as, known, request)  # also of a model of which not all has come


def _raise_of_disk(error: Exception) -> None:
    """A disk that is full is not the hub's fault; the command line tells of it."""
    if isinstance(error, OSError) and error.errno in output.OF_DISKS:
        raise error


def _kept_of_hugging_face(request: HubRequest) -> Path | None:
    """All files from before; the library takes them itself where it has no connection, not where one ends early."""
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(request.name, **request.how, local_files_only=True))
    except errors.LocalEntryNotFoundError:
        return None


def _blobs(kept_as: Path) -> set[str]:
    return {path.name for path in (kept_as / "blobs").glob("*")}


def _of_xet(endpoint: str, *, is_off: bool) -> str:
    """What a mirror means for the way that files take; nothing where there is none."""
    if not is_mirror(endpoint) or importlib.util.find_spec("hf_xet") is None:
        return ""
    if is_off:
        return Message("files are fetched without Xet, which would go past the mirror (HF_HUB_DISABLE_XET=1)")
    return Message("with Xet, files come from other hosts than the mirror; HF_HUB_DISABLE_XET=1 keeps to it")


def _check_blobs(kept_as: Path, known: Collection[str], request: HubRequest) -> None:
    """Compare what has come with its names in the hub's cache, which are its hashes; the library looks at sizes alone.

    What is `known` was here before and is not read again. A cache without links (Windows) does not have those names.
    """
    wrong = []
    for name in sorted(_blobs(kept_as).difference(known)):
        blob = kept_as / "blobs" / name
        found = _hash_as(blob)
        if found not in (None, name):
            links = (path for path in (kept_as / "snapshots").rglob("*") if path.is_symlink())
            wrong.append(next((path.name for path in links if Path(os.readlink(path)).name == name), name))
            blob.unlink(missing_ok=True)  # another process may have found the same
    if wrong:
        raise request.is_another(", ".join(sorted(wrong)), Message("does not have the hash that is listed"))


def _hash_as(blob: Path) -> str | None:
    """The hash of a file, of the kind that its name is; None for a name that is none."""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name) or not blob.is_file():
        return None
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % blob.stat().st_size)  # git's
    with blob.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _from_modelscope(request: HubRequest) -> Path:
    try:
        from modelscope_hub import errors
    except ImportError as error:
        raise MissingDependencyError(
            "{about}: modelscope-hub, the client of ModelScope, is not installed; {pip_install}",
            about=request.about,
            pip_install=pip_install("modelscope"),
        ) from error
    from huggingface_hub import is_offline_mode

    # Its lines on every step and on errors, which we tell ourselves, are not wanted; those on new attempts are.
    logging.getLogger("modelscope_hub.download").addFilter(lambda record: record.levelno == logging.WARNING)
    try:
        folder = _modelscopes_folder(request, is_offline=is_offline_mode())
        if not is_offline_mode():
            _note_whole(folder, request)
        elif _notes_of(folder) and not _kept_of_modelscope(request):
            raise request.is_offline(FileNotFoundError(Message("not all of its files are here")))
        return folder
    except (errors.HubError, OSError, RuntimeError) as error:  # the last of a user without a home folder
        _raise_of_disk(error)
        if isinstance(error, (errors.NetworkError, errors.ServerError)) and (kept := _kept_of_modelscope(request)):
            request.tell_kept(error)
            return kept
        raise _of_modelscope(request, error) from error


def _modelscopes_folder(request: HubRequest, *, is_offline: bool) -> Path:
    from modelscope_hub.compat import snapshot_download

    with contextlib.nullcontext() if rank() == 0 else contextlib.redirect_stderr(io.StringIO()):  # the bars of one
        return Path(snapshot_download(request.name, **request.how, local_files_only=is_offline))


def _note_whole(folder: Path, request: HubRequest) -> None:
    """Keep what has come: by the folder alone nobody could tell later, without the hub, that nothing is missing."""
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("[!.]*") if path.is_file()}
    with contextlib.suppress(OSError):  # a cache that is only read
        (folder / _whole_of(request)).write_text(json.dumps(sizes), encoding="utf-8")


def _notes_of(folder: Path) -> list[Path]:
    return list(folder.glob(f"{_WHOLE}*"))


def _whole_of(request: HubRequest) -> str:
    return _WHOLE if request.how["allow_patterns"] is None else f"{_WHOLE}-small"


def _kept_of_modelscope(request: HubRequest) -> Path | None:
    """All files from before, of which `_note_whole` has told; huggingface_hub looks at this itself."""
    from modelscope_hub.errors import CacheNotFound

    try:
        folder = _modelscopes_folder(request, is_offline=True)
        note = folder / _WHOLE  # of all files, the small ones too
        sizes = json.loads((note if note.is_file() else folder / _whole_of(request)).read_text(encoding="utf-8"))
    except (CacheNotFound, OSError, ValueError):
        return None
    found = ((folder / name, size) for name, size in sizes.items())
    return folder if all(path.is_file() and path.stat().st_size == size for path, size in found) else None


def _of_modelscope(request: HubRequest, error: Exception) -> ModelError:
    from modelscope_hub import errors

    failed = error.failed_files if isinstance(error, errors.FileDownloadError) else {}
    for path, each in failed.items():
        if isinstance(each, errors.FileIntegrityError):
            return request.is_another(path, Message("is not as it is listed ({each})", each=one_line(each, MOST_TOLD)))
    if isinstance(error, errors.CacheNotFound):
        return request.is_offline(error)
    refusals = (errors.NotExistError, errors.AuthenticationError, errors.PermissionDeniedError, errors.InvalidParameter)
    if isinstance(error, refusals) or isinstance(error.__cause__, refusals):
        return request.has_none(error)
    return request.came_to_nothing(error)
