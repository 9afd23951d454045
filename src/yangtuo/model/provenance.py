"""What travels with an adapter: its tokenizer, and `yangtuo.json`, where it comes from and how it is asked.

The file lies beside the weights, and once more in their safetensors header, which tells whether it still belongs to
them. Imports no torch.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yangtuo.data.template_choice import KEEPS_OWN_SYSTEM, choose_template, keeps_own_system, with_kwargs, with_system
from yangtuo.data.template_json import from_values
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import AdapterError, DataError
from yangtuo.i18n import Message
from yangtuo.model.folders import local_folder
from yangtuo.model.hubs import Source
from yangtuo.model.prompt_texts import jinja_of
from yangtuo.model.weight_names import header

logger = logging.getLogger(__name__)

PROVENANCE_FILE = "yangtuo.json"
WEIGHTS_FILE, OLD_WEIGHTS_FILE = "adapter_model.safetensors", "adapter_model.bin"
METADATA_KEY = "yangtuo"
FORMAT = 1
_PARTS: dict[str, dict[str, type]] = {
    "base": {"name": str, "num_rows": int, "config": dict, "merged_before": list, "samples": dict},
    "tokenizer": {"sha256": str},
    "template": {},
}


def to_text(provenance: Mapping[str, Any]) -> str:
    """As it is written in both places; a name that is not UTF-8 is written as its escapes."""
    text = json.dumps({"format": FORMAT, **provenance}, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def read(folder: Path) -> dict[str, Any] | None:
    """Of an adapter or a merged model; None where none was written, or another program wrote the weights.

    Raises:
        AdapterError: it is broken, of a later version, or of other weights.
    """
    inside = header(folder / WEIGHTS_FILE).get("__metadata__", {}).get(METADATA_KEY)
    known = _of_adapter(inside, Message("{folder}, its metadata", folder=folder / WEIGHTS_FILE)) if inside else None
    if not (folder / PROVENANCE_FILE).is_file():
        return known
    try:
        text = (folder / PROVENANCE_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError("{folder}: cannot be read: {error}", folder=folder / PROVENANCE_FILE, error=error) from error
    if not (folder / "adapter_config.json").is_file():  # a merged model's tells the template only
        return _parsed(text, str(folder / PROVENANCE_FILE))
    beside = _of_adapter(text, str(folder / PROVENANCE_FILE))
    if known is None:
        logger.warning("%s: another program has written these weights; %s is not about them", folder, PROVENANCE_FILE)
        return None
    if known != beside:
        raise AdapterError(
            "{folder}: {provenance_file} is not of these weights, whose own copy says otherwise; copy the folder "
            "again, or remove {provenance_file} to go by the weights' copy",
            folder=folder,
            provenance_file=PROVENANCE_FILE,
        )
    return known


def template_of(folder: Path) -> Template | None:
    """The template that travels with an adapter or a merged model, if one does.

    Raises:
        AdapterError: see `read`.
        DataError: a template of a later version.
    """
    values = (read(folder) or {}).get("template")
    if values and not isinstance(values, dict):
        raise AdapterError(
            "{folder}: its template is no object; name one with --template", folder=folder / PROVENANCE_FILE
        )
    return from_values(values) if values else None


def below(adapter: Path, present: Collection[str]) -> list[Path]:
    """Folders of the adapters that this one was trained on top of, in order, where they still lie as they were.

    `present` are SHA-256 of adapters that are in the base already. Where one is missing, the comparison with the
    fingerprint says so.

    Raises:
        AdapterError: see `read`.
    """
    stack = (read(adapter) or {}).get("stack", ())
    return [
        Path(one["folder"])
        for one in stack
        if one["sha256"] not in present
        and Path(one["folder"]).is_dir()
        and sha256_of(Path(one["folder"])) == one["sha256"]
    ]


def continued(known: Mapping[str, Any] | None, hashes: Collection[str]) -> list[dict[str, str]]:
    """Which of these adapters, by their SHA-256, an adapter continues: what they learned is in it."""
    return [one for one in (known or {}).get("continued", ()) if one["sha256"] in hashes]


def sha256_of(folder: Path) -> str:
    """Hash of an adapter's weights file, by which it is known.

    Raises:
        AdapterError: there is none.
    """
    for name in (WEIGHTS_FILE, OLD_WEIGHTS_FILE):
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    raise AdapterError("{folder}: no weights there", folder=folder)


def find_tokenizer(folders: Iterable[Path], named: str | None = None, source: Source | None = None) -> Tokenizer | None:
    """The tokenizer that was named, else that of the first folder which has one; None where none has.

    Args:
        folders: of adapter and model, the likelier first.
        named: `--tokenizer_name_or_path`.
        source: of the base, if the tokenizer may come from a hub too; of that its main revision.

    Raises:
        UserError: it cannot be used.
    """
    if named:
        must_hold, option = ["tokenizer.model", "tokenizer.json"], "tokenizer_name_or_path"
        of_tokenizer = replace(source or Source(), revision=None)
        folders = [local_folder(named, option=option, must_hold=must_hold, source=of_tokenizer, weights=False)]
    found = next((open_tokenizer(folder) for folder in folders if named or is_tokenizer_folder(folder)), None)
    if found and found.told:
        logger.warning("tokenizer: %s: %s", found.folder, found.told)
    return found


def find_template(
    folders: Iterable[Path],
    tokenizer: Tokenizer,
    named: str | None,
    system_prompt: str | None,
    kwargs: Mapping[str, Any] | None = None,
) -> tuple[Template, str]:
    """The template that was named, else the one that travels with a folder, else the one that fits the tokenizer.

    Args:
        folders: of adapter and model, the likelier first.
        tokenizer: decides where none travels.
        named: `--template`; None and "auto" for none.
        system_prompt: of dialogues without one, instead of the template's own; "" for none.
        kwargs: what a chat template is given beside the messages; None for what it was given in training.

    Returns:
        The template, and why this one.

    Raises:
        UserError: a file or a template that cannot be used.
    """
    # In a folder of ours, the tokenizer's chat template is that of the training, written by `prompt_texts.jinja_of`.
    travelling = ((folder, template_of(folder)) for folder in folders) if named in (None, "auto", "tokenizer") else ()
    found = next(((folder, template) for folder, template in travelling if template), None)
    if found and (named != "tokenizer" or _is_written(found[1], tokenizer)):
        template = with_kwargs(with_system(found[1], system_prompt), kwargs)
        why: str = Message("auto: {folder} was trained with it", folder=found[0])
    else:
        template, why = choose_template(named or "auto", tokenizer, system_prompt, kwargs)
    if system_prompt == "" and keeps_own_system(template):
        logger.warning('--system_prompt "": %s', KEEPS_OWN_SYSTEM)
    return template, why


def tell_other(folders: Iterable[Path], template: Template) -> None:
    """Say so where the first folder that tells its template was trained with another one.

    Raises:
        AdapterError: see `read`.
    """
    found = next(((folder, own) for folder in folders if (own := template_of(folder))), None)
    if found and found[1].identity() != template.identity():
        logger.warning(
            "template: %s as asked for; %s was trained with %s, or another system prompt",
            template.name,
            found[0],
            found[1].name,
        )


def _is_written(template: Template, tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer's chat template is this template, as it is written for other programs."""
    try:
        return jinja_of(template, tokenizer) == tokenizer.chat_template
    except DataError:
        return False


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        version = value["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            "{where}: not written by this program: {error!r}; copy the adapter's folder again", where=where, error=error
        ) from error
    if version != FORMAT:
        raise AdapterError(
            "{where}: written by a later version of this program (format {version}); update it",
            where=where,
            version=version,
        )
    return dict(value)


def _of_adapter(text: str, where: str) -> dict[str, Any]:
    known = _parsed(text, where)
    wrong = []
    for part, wanted in _PARTS.items():
        value = known.get(part)
        if not isinstance(value, dict):
            wrong.append(part)
        else:
            wrong += [f"{part}.{key}" for key, kind in wanted.items() if not isinstance(value.get(key), kind)]
    wrong += [part for part in ("stack", "continued") if not _is_list_of_adapters(known.get(part, []))]
    if wrong:
        raise AdapterError(
            "{where}: missing or of the wrong kind: {wrong}; copy the adapter's folder again",
            where=where,
            wrong=", ".join(wrong),
        )
    return known


def _is_list_of_adapters(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("folder"), str) and isinstance(one.get("sha256"), str)
        for one in value
    )
