"""Where the parts of a model lie that somebody named: base, adapter, run or hub name. Loads no torch."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yangtuo.config.schema import ModelArguments
from yangtuo.errors import AdapterError, UsageError, one_line
from yangtuo.i18n import Listed, Message
from yangtuo.model import adapter_folder
from yangtuo.model.adapter_folder import CONFIG_FILE
from yangtuo.model.folders import local_folder, taken_for_a_model
from yangtuo.model.hubs import source_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where the parts of a model lie.

    Attributes:
        base: folder of the weights; a merged model is its own.
        adapter: folder of the adapter on it; None without one.
    """

    base: Path
    adapter: Path | None

    @property
    def travelling(self) -> Path:
        """The folder in which tokenizer and template travel."""
        return self.adapter or self.base


def find_adapter(target: str | None, peft_path: str | None) -> Path | None:
    """The adapter that was named, by its own folder or by that of its run; None where a model was named.

    Args:
        target: the folder of an adapter, of a run or of a model, or the hub name of a model; None for the option.
        peft_path: the adapter or its run, as an option.

    Raises:
        UsageError: named twice.
    """
    if target is None:
        return None if peft_path is None else adapter_folder.of_run(Path(os.path.expanduser(peft_path)))
    if peft_path is not None:
        raise UsageError(
            "{target} and --peft_path {peft_path}: name one of them; an adapter's base is --model_name_or_path",
            target=target,
            peft_path=peft_path,
        )
    folder = Path(os.path.expanduser(target))
    found = adapter_folder.of_run(folder)
    if (found / CONFIG_FILE).is_file():
        return found
    if folder.is_dir() and not (folder / "config.json").is_file():
        told = Message(
            "{target}: neither {config_file} nor config.json in that folder (found: {names})",
            target=target,
            config_file=CONFIG_FILE,
            names=", ".join(sorted(path.name for path in folder.iterdir())[:6]) or Message("nothing"),
        )
        meant = [*adapter_folder.meant(folder), *taken_for_a_model(folder, "model_name_or_path")]
        raise UsageError(Listed([told, *meant], "; "))
    return None


def places_of_adapter(adapter: Path, model: ModelArguments) -> Places:
    """An adapter and its base: the one that was named, else the one that it was trained on.

    Raises:
        AdapterError: no adapter there, or one whose base is not here.
        ModelError: the base that was named is not there.
    """
    if not (adapter / CONFIG_FILE).is_file():
        adapter_folder.check_adapter(str(adapter))  # says what is wrong with it
    named = model.model_name_or_path
    if named is None:
        named = str(_read_object(adapter / CONFIG_FILE).get("base_model_name_or_path") or "")
        # A hub name is not followed: an adapter does not decide that gigabytes are fetched.
        if not named or not os.path.isdir(os.path.expanduser(named)):
            told = (
                Message("its base {named} is not a folder here", named=named)
                if named
                else Message("its {config_file} names no base", config_file=CONFIG_FILE)
            )
            raise AdapterError("{adapter}: {told}; name the base with --model_name_or_path", adapter=adapter, told=told)
        logger.info("base: %s, named by the adapter", named)
    return Places(model_folder(named, model), adapter)


def model_folder(named: str, model: ModelArguments) -> Path:
    """The folder of a model with its weights.

    Raises:
        ModelError: it is not there.
    """
    return local_folder(
        named,
        option="model_name_or_path",
        must_hold=["config.json"],
        source=source_of(model),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError("{path}: cannot be read: {error}", path=path, error=one_line(error, 160)) from error
    if not isinstance(value, dict):
        raise AdapterError("{path}: expected an object", path=path)
    return value


def places_of(target: str, model: ModelArguments) -> Places:
    """Where a model lies that was named by the folder of an adapter, of a run or of a model, or by its hub name.

    Raises:
        UserError: it is not there.
    """
    adapter = find_adapter(target, None)
    return places_of_adapter(adapter, model) if adapter else Places(model_folder(target, model), None)
