"""Put adapters into their base, write a plain model, and prove that it is the same model."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yangtuo.api.arguments import Option, one_of, options_of
from yangtuo.api.process import as_library
from yangtuo.config.choices import Hub
from yangtuo.config.schema import ModelArguments
from yangtuo.errors import AdapterError, UsageError
from yangtuo.i18n import Message
from yangtuo.inference import places
from yangtuo.merging.options import DTYPE_NAMES, MergeOptions
from yangtuo.model import adapter_folder
from yangtuo.model.folders import local_folder
from yangtuo.model.hubs import Source
from yangtuo.output import check_new, new_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MergeResult:
    """A merged model.

    Attributes:
        folder: it lies in.
        proofs: that it is the base with its adapters, by tensors and by logits; merge.json has more.
    """

    folder: Path
    proofs: Mapping[str, Any]


def merge(target: Option = None, **options: Option) -> MergeResult:
    """Put adapters into their base, as `yangtuo merge` does.

    Args:
        target: folder of an adapter or of a run, whose adapter goes into the base that it names.
        options: `output_dir`, and the others of `MergeOptions`.

    Raises:
        UserError: base, adapters or output folder cannot be used; nothing was written.
        RunFailure: writing failed, and nothing stays.
        ProofError: what was written is kept as `DIR.failed-proof`.
    """
    given = {"model_name_or_path": "", "peft_path": "", **_without_none(options)}
    asked = options_of(MergeOptions, "yangtuo.merge", given)
    check_words("yangtuo.merge", asked)
    asked, folder = find(asked, None if target is None else str(target), needs_adapter=True)
    with as_library():
        return run(asked, folder)


def _without_none(options: Mapping[str, Option]) -> dict[str, Option]:
    return {name: value for name, value in options.items() if value is not None}


def check_words(function: str, asked: MergeOptions) -> None:
    """Refuse a word that an option does not take, as argparse does on the command line.

    Raises:
        UsageError: it is none of those.
    """
    one_of(function, "dtype", asked.dtype, DTYPE_NAMES)
    one_of(function, "hub", asked.hub, [str(hub) for hub in Hub])


def find(asked: MergeOptions, target: str | None, *, needs_adapter: bool) -> tuple[MergeOptions, Path]:
    """Where base and adapters lie, once it is known that the output folder is free; loads no torch.

    Args:
        asked: adapters may be named by their runs, and the base may be left to the first adapter.
        target: folder of an adapter, of a run or, without `needs_adapter`, of a model.
        needs_adapter: whether it can be that nothing is merged.

    Returns:
        The options with every place named, and the folder of the base.

    Raises:
        UserError: one of them cannot be used.
    """
    asked, adapters = _named(asked, target)
    if target and needs_adapter and not adapters and not Path(target).expanduser().is_dir():
        raise AdapterError("{target}: no such folder; give that of a run or of an adapter", target=target)
    if needs_adapter and not adapters:
        told = (
            Message("{target}: no adapter, and no run that has one", target=target)
            if target
            else Message("no adapter is named")
        )
        raise UsageError("{told}; name the folder of a run or of an adapter, or --peft_path", told=told)
    if not asked.model_name_or_path and not adapters:
        raise UsageError("name the folder of a run, of an adapter or of a model")
    check_new(Path(asked.output_dir), "output_dir")
    for adapter in adapters:
        adapter_folder.check_adapter(str(adapter))
    if not asked.model_name_or_path:
        model = ModelArguments(hub=Hub(asked.hub), cache_dir=asked.cache_dir)
        asked = replace(asked, model_name_or_path=str(places.places_of_adapter(adapters[0], model).base))
    folder = local_folder(
        asked.model_name_or_path,
        option="model_name_or_path",
        must_hold=["config.json"],
        source=Source(Hub(asked.hub), asked.cache_dir),
    )
    return replace(asked, peft_path=",".join(map(str, adapters)) or None), folder


def _named(asked: MergeOptions, target: str | None) -> tuple[MergeOptions, list[Path]]:
    """The adapters, by their own folders; a target that is none is the model."""
    names = [name.strip() for name in (asked.peft_path or "").split(",") if name.strip()]
    if target is None:
        return asked, [adapter_folder.of_run(Path(name).expanduser()) for name in names]
    if adapter := places.find_adapter(target, asked.peft_path or None):
        return asked, [adapter]
    if asked.model_name_or_path:
        raise UsageError(
            "{target} and --model_name_or_path {model_name_or_path}: two models; name one",
            target=target,
            model_name_or_path=asked.model_name_or_path,
        )
    return replace(asked, model_name_or_path=target), []


def run(asked: MergeOptions, folder: Path) -> MergeResult:
    """Check, write, prove twice, and give the folder its name; `find` gives both arguments.

    Raises:
        YangtuoError: see `merge`.
    """
    from yangtuo.merging.job import check_room, prepare
    from yangtuo.merging.make import RECORD_FILE, prompt_files_for, write_merged

    job, out = prepare(asked, folder), Path(asked.output_dir)
    check_room(job, out)
    prompt_files = prompt_files_for(job)
    with new_folder(out, "output_dir") as draft:
        write_merged(job, draft, asked.model_name_or_path, prompt_files)
    logger.info("merged and proven: %s", out)
    if prompt_files:
        prompt_files.tell()
    return MergeResult(out, json.loads((out / RECORD_FILE).read_text(encoding="utf-8"))["proofs"])
