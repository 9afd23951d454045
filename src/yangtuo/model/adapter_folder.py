"""Which folder is an adapter: by its own path, or by that of the run that made it. Loads no torch.

A wrong path is the most common error there is, so it is found before the libraries that compute are imported.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from yangtuo.config.words import of_missing_path
from yangtuo.errors import AdapterError
from yangtuo.i18n import Listed, Message

logger = logging.getLogger(__name__)

CONFIG_FILE = "adapter_config.json"
OF_RUN, _BEST = "sft_lora_model", "best"  # as a run names them


def check_adapter(peft_path: str, *, is_optional: bool = False) -> Path:
    """The folder, if it is an adapter's.

    Args:
        peft_path: as the user named it.
        is_optional: where a run could go without, which the message then says.

    Raises:
        AdapterError: no such folder, or no adapter in it.
    """
    folder = Path(peft_path)
    if not folder.is_dir():
        told = of_missing_path(Message("--peft_path {peft_path}: no such folder", peft_path=peft_path), peft_path)
        if is_optional:
            raise AdapterError("{told}; for a new LoRA, leave --peft_path out", told=told)
        raise AdapterError(told)
    if not (folder / CONFIG_FILE).is_file():
        told = Message(
            "--peft_path {peft_path}: no {config_file} in that folder, so it is no adapter",
            peft_path=peft_path,
            config_file=CONFIG_FILE,
        )
        raise AdapterError(Listed([told, *meant(folder)], "; "))
    return folder


def of_run(folder: Path) -> Path:
    """The adapter that a run left in its folder; any other folder as it is."""
    adapter = folder / OF_RUN
    if (folder / CONFIG_FILE).is_file() or not (adapter / CONFIG_FILE).is_file():
        return folder
    logger.info("adapter: %s, of the run in %s", adapter, folder)
    return adapter


def meant(folder: Path) -> Iterator[str]:
    """For messages, which sub-folder was probably meant: a run's adapter, its best, its last checkpoint, another."""
    names = [path.parent.name for path in sorted(folder.glob(f"[!.]*/{CONFIG_FILE}"))]
    step = {name: int(found[1]) for name in names if (found := re.fullmatch(r"checkpoint-(\d+)", name))}
    names.sort(key=lambda name: (name != OF_RUN, name != _BEST, -step.get(name, -1)))
    if names:
        yield Message("did you mean its sub-folder {name!r}?", name=names[0])
