"""Opening everything that a run reads, in the order in which its errors are cheapest to see; no weights of the base."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from yangtuo.data import records, splitting
from yangtuo.data.audit import audit, summary
from yangtuo.data.encoding import Counts, Examples
from yangtuo.data.store import Policy, Store, Stored
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import TokenizerError, UsageError
from yangtuo.model import adapter_files, adapters, base
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.folders import cache_folder, local_folder
from yangtuo.parsing import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads, opened and checked; no weights of the base yet."""

    base: Path
    config: PreTrainedConfig
    adapter: SavedAdapter | None
    tokenizer: Tokenizer
    train_files: list[Path]
    validation_files: list[Path] | None


def open_inputs(settings: Settings) -> Inputs:
    """Open base, adapter, tokenizer and data, in the order in which their errors are cheapest to see."""
    model, lora = settings.model, settings.lora
    if not model.model_name_or_path:
        raise UsageError("--model_name_or_path is missing: the folder of the base model")
    folder_of_base = local_folder(
        model.model_name_or_path,
        option="model_name_or_path",
        must_hold=["config.json"],
        revision=model.model_revision,
        cache_dir=model.cache_dir,
    )
    config = base.read_config(folder_of_base, trust_remote_code=model.trust_remote_code)
    base.check_positions(config, settings.data.max_seq_length)
    saved = adapter_files.read(lora.peft_path) if lora.peft_path else None
    if saved:
        adapters.check_contradictions(saved, lora, settings.origins)
    else:
        adapters.check_options(lora, base.modules_of(config, trust_remote_code=model.trust_remote_code))
    tokenizer = find_tokenizer(settings, folder_of_base, saved)
    if lora.train_new_tokens_only and not saved:
        base.check_new_tokens(config, tokenizer.num_tokens)
    return Inputs(folder_of_base, config, saved, tokenizer, *find_data(settings))


def find_tokenizer(settings: Settings, base_folder: Path | None, saved: SavedAdapter | None) -> Tokenizer:
    """The tokenizer that was named, else the adapter's, else the base's."""
    named = settings.model.tokenizer_name_or_path
    if named:
        must_hold = ["tokenizer.model", "tokenizer.json"]
        option, cache_dir = "tokenizer_name_or_path", settings.model.cache_dir
        return open_tokenizer(
            local_folder(named, option=option, must_hold=must_hold, cache_dir=cache_dir, weights=False)
        )
    for place in (saved.folder if saved else None, base_folder):
        if place and is_tokenizer_folder(place):
            logger.info("tokenizer: %s (no --tokenizer_name_or_path given)", place)
            return open_tokenizer(place)
    raise UsageError("--tokenizer_name_or_path is missing, and neither adapter nor base holds a tokenizer")


def find_data(settings: Settings) -> tuple[list[Path], list[Path] | None]:
    """Training files and validation files; None where no validation file is given. Nothing is read yet."""
    data = settings.data
    place = data.train_file or data.dataset_dir
    if not place:
        raise UsageError("--dataset_dir is missing: the folder with the .json files to train on")
    option = "train_file" if data.train_file else "dataset_dir"
    files = records.find_files(place, exclude=data.validation_file, option=option)
    if data.validation_file and Path(place).is_dir() and len(files) < len(records.find_files(place)):
        logger.warning("data: the validation file lies in the training folder and is left out of training")
    if not data.validation_file:
        return files, None
    if not Path(data.validation_file).is_file():
        raise UsageError(f"--validation_file {data.validation_file}: no such file")
    return files, [Path(data.validation_file)]


@dataclass(frozen=True)
class Encoded:
    """The rows as examples, before any of them is set aside."""

    train: Stored
    validation: Stored | None


def encode_inputs(settings: Settings, inputs: Inputs) -> Encoded:
    """All rows as ids; before processes know of each other, so that none waits in a collective for another's work."""
    wants_eval = _wants_evaluation(settings)
    if wants_eval and inputs.validation_files is None and settings.data.validation_split_percentage is None:
        raise UsageError("evaluation needs --validation_file or --validation_split_percentage; or drop --do_eval")
    if not wants_eval:
        for name in ("validation_file", "validation_split_percentage", "eval_steps"):
            if settings.given(name):
                logger.warning("--%s has no effect: neither --do_eval nor --eval_strategy is given", name)
    if settings.given("per_device_eval_batch_size") and settings.run.loss_reduction == "token":
        logger.warning("--per_device_eval_batch_size has no effect: the mean is over all tokens, memory sets the batch")
    train = encode_files(settings, inputs.train_files, inputs.tokenizer)
    _compare_tokenizers(settings, inputs, train.examples)
    if inputs.validation_files is None or not wants_eval:
        return Encoded(train, None)
    return Encoded(train, encode_files(settings, inputs.validation_files, inputs.tokenizer))


def _compare_tokenizers(settings: Settings, inputs: Inputs, train: Examples) -> None:
    """A tokenizer that was named wins over the adapter's, if the ids of the data are the same."""
    if inputs.adapter is None or not is_tokenizer_folder(inputs.adapter.folder):
        return
    of_adapter = open_tokenizer(inputs.adapter.folder)
    if of_adapter.sha256() == inputs.tokenizer.sha256():
        return
    other = encode_files(settings, inputs.train_files, of_adapter).examples
    if not (np.array_equal(train.offsets, other.offsets) and np.array_equal(train.input_ids, other.input_ids)):
        raise TokenizerError(
            f"the tokenizer {inputs.tokenizer.folder} gives other ids for this data than the adapter's own in "
            f"{inputs.adapter.folder}; leave --tokenizer_name_or_path out to use that one"
        )


def divide(
    settings: Settings, inputs: Inputs, encoded: Encoded, seed: int
) -> tuple[Examples, Examples | None, dict[str, Any]]:
    """Set the validation part aside where there is no file of its own, and say what became of the rows."""
    train, eos_id = encoded.train.examples, inputs.tokenizer.eos_id
    validation = encoded.validation
    percentage = settings.data.validation_split_percentage
    if _wants_evaluation(settings) and validation is None and percentage is not None:
        aside, rest = splitting.split(train, percentage, seed)
        if rest is None:
            raise UsageError(f"--validation_split_percentage {percentage} leaves no row to train on")
        train = rest
        validation = Stored(aside, Counts(num_read=len(aside), num_kept=len(aside)), encoded.train.sources)
    audits = {"train": audit(train, encoded.train.counts, encoded.train.sources, eos_id)}
    if validation is not None:
        audits["validation"] = audit(validation.examples, validation.counts, validation.sources, eos_id)
    for name, report in audits.items():
        for line in summary(f"data, {name}", report):
            logger.info(line)
    return train, validation.examples if validation else None, audits


def _wants_evaluation(settings: Settings) -> bool:
    return bool(settings.training.get("do_eval")) or settings.training_value("eval_strategy") != "no"


def encode_files(settings: Settings, files: Sequence[Path], tokenizer: Tokenizer) -> Stored:
    """With the settings' length policy, from the store where it has them."""
    data = settings.data
    folder = Path(data.data_cache_dir) if data.data_cache_dir else cache_folder() / "encoded"
    store = Store(folder, refresh=data.overwrite_cache, num_threads=data.preprocessing_num_workers)
    return store.encoded(files, tokenizer, Policy(ALPACA_ZH, data.max_seq_length, data.truncation))
