"""A name that the user gave -> a local folder. Only from here something may be fetched, and only by name."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from yangtuo.config.words import of_missing_path
from yangtuo.errors import ModelError
from yangtuo.i18n import Listed, Message
from yangtuo.model.hubs import Source, fetch

logger = logging.getLogger(__name__)

_TOKENIZER_PATTERNS = [
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "*.jinja",
]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_OF_GGUF = Message(
    "GGUF is for serving and cannot be used here; give the model that it was made from, a folder with config.json and "
    "*.safetensors"
)


def local_folder(
    name: str,
    *,
    option: str,
    must_hold: Sequence[str],
    source: Source,
    weights: bool = True,
) -> Path:
    """The folder itself if it exists, else the hub model of that name, fetched.

    A local path is never taken for a hub name: a folder that lacks its files is an error, not a download.

    Args:
        name: folder or `owner/name`.
        option: the option it came from, for messages.
        must_hold: files of which at least one has to be there.
        source: the hub that is asked where it is no folder.
        weights: whether the weights are wanted, or the small files only.

    Raises:
        ModelError: no such folder, a folder without any of `must_hold`, or a hub that does not give the model.
        MissingDependencyError: the hub's client is not installed.
    """
    folder = check_place(name, option=option, must_hold=must_hold)
    if folder is None:
        return fetch(name, source, option=option, patterns=None if weights else ["config.json", *_TOKENIZER_PATTERNS])
    if source.revision:
        logger.warning("--model_revision %s has no effect: %s is a folder, not a hub model", source.revision, name)
    return folder


def check_place(name: str, *, option: str, must_hold: Sequence[str]) -> Path | None:
    """The folder, if it is one; None for what may be the name of a hub model, which is not asked for here.

    Args:
        name: folder or `owner/name`.
        option: the option it came from, for messages.
        must_hold: files of which at least one has to be there.

    Raises:
        ModelError: no such folder, or a folder without any of `must_hold`.
    """
    folder = Path(os.path.expanduser(name))  # as it is, where there is no home
    about = Message("--{option} {name}", option=option, name=name)
    if folder.is_dir():
        if any((folder / file).is_file() for file in must_hold):
            return folder
        found = Message(
            "no {must_hold} in that folder (found: {found})",
            must_hold=Listed(must_hold, " or "),
            found=", ".join(sorted(os.listdir(folder))[:6]) or Message("nothing"),
        )
        told = Listed([found, *taken_for_a_model(folder, option)], "; ")
        raise ModelError("{about}: {told}", about=about, told=told)
    if folder.suffix.lower() == ".gguf":
        raise ModelError("{about}: {told}", about=about, told=_OF_GGUF)
    if _HUB_NAME.fullmatch(name):
        return None
    raise ModelError(of_missing_path(Message("{about}: no such folder", about=about), name))


def taken_for_a_model(folder: Path, option: str) -> Iterator[str]:
    """What a folder is, where it is something else."""
    if option == "model_name_or_path" and (folder / "adapter_config.json").is_file():
        yield Message("it is an adapter, which is given as --peft_path, beside its base")
    elif any(folder.glob("*.gguf")):
        yield _OF_GGUF


def cache_folder() -> Path | None:
    """The user's cache folder of this program, by the XDG base directory specification.

    None where there is none: no HOME, and a user id without a name, as services and containers have it.
    """
    given = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if given.startswith("~") else Path(given) / "yangtuo"
