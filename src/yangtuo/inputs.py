"""Opening everything that a run reads, in the order in which its errors are cheapest to see; no weights of the base."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from yangtuo.data import records, splitting
from yangtuo.data.audit import audit, summary
from yangtuo.data.encoding import Counts, Examples, encode
from yangtuo.data.records import Record, Source
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import TokenizerError, UsageError
from yangtuo.model import adapter_files, adapters, base
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.folders import local_folder
from yangtuo.parsing import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """Everything that a run reads, opened and checked; no weights of the base yet."""

    base: Path
    config: PreTrainedConfig
    adapter: SavedAdapter | None
    tokenizer: Tokenizer
    train: list[Record]
    validation: list[Record] | None
    sources: list[Source]
    validation_sources: list[Source]


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
    train, validation, sources, validation_sources = read_data(settings)
    return Inputs(folder_of_base, config, saved, tokenizer, train, validation, sources, validation_sources)


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


def read_data(settings: Settings) -> tuple[list[Record], list[Record] | None, list[Source], list[Source]]:
    """Training and validation records and where they came from; None where no validation file is given."""
    data = settings.data
    place = data.train_file or data.dataset_dir
    if not place:
        raise UsageError("--dataset_dir is missing: the folder with the .json files to train on")
    option = "train_file" if data.train_file else "dataset_dir"
    files = records.find_files(place, exclude=data.validation_file, option=option)
    if data.validation_file and Path(place).is_dir() and len(files) < len(records.find_files(place)):
        logger.warning("data: the validation file lies in the training folder and is left out of training")
    train, sources = records.read(files)
    if not data.validation_file:
        return train, None, sources, []
    if not Path(data.validation_file).is_file():
        raise UsageError(f"--validation_file {data.validation_file}: no such file")
    validation, validation_sources = records.read([Path(data.validation_file)])
    return train, validation, sources, validation_sources


@dataclass(frozen=True)
class Encoded:
    """The rows as examples, before any of them is set aside."""

    train: Examples
    train_counts: Counts
    validation: Examples | None
    validation_counts: Counts | None


def encode_inputs(settings: Settings, inputs: Inputs) -> Encoded:
    """Encode all rows; done by every process for itself before they know of each other, so that none waits."""
    wants_eval = _wants_evaluation(settings)
    if wants_eval and inputs.validation is None and settings.data.validation_split_percentage is None:
        raise UsageError("evaluation needs --validation_file or --validation_split_percentage; or drop --do_eval")
    if not wants_eval:
        for name in ("validation_file", "validation_split_percentage", "eval_steps"):
            if settings.given(name):
                logger.warning("--%s has no effect: neither --do_eval nor --eval_strategy is given", name)
    if settings.given("per_device_eval_batch_size") and settings.run.loss_reduction == "token":
        logger.warning("--per_device_eval_batch_size has no effect: the mean is over all tokens, memory sets the batch")
    train, train_counts = encode_records(settings, inputs.train, inputs.tokenizer)
    _compare_tokenizers(settings, inputs, train)
    if inputs.validation is None or not wants_eval:
        return Encoded(train, train_counts, None, None)
    return Encoded(train, train_counts, *encode_records(settings, inputs.validation, inputs.tokenizer))


def _compare_tokenizers(settings: Settings, inputs: Inputs, train: Examples) -> None:
    """A tokenizer that was named wins over the adapter's, if the ids of the data are the same."""
    if inputs.adapter is None or not is_tokenizer_folder(inputs.adapter.folder):
        return
    of_adapter = open_tokenizer(inputs.adapter.folder)
    if of_adapter.sha256() == inputs.tokenizer.sha256():
        return
    other, _ = encode_records(settings, inputs.train, of_adapter)
    if not (np.array_equal(train.offsets, other.offsets) and np.array_equal(train.input_ids, other.input_ids)):
        raise TokenizerError(
            f"the tokenizer {inputs.tokenizer.folder} gives other ids for this data than the adapter's own in "
            f"{inputs.adapter.folder}; leave --tokenizer_name_or_path out to use that one"
        )


def divide(
    settings: Settings, inputs: Inputs, encoded: Encoded, seed: int
) -> tuple[Examples, Examples | None, dict[str, Any]]:
    """Set the validation part aside where there is no file of its own, and say what became of the rows."""
    train, validation, counts = encoded.train, encoded.validation, encoded.validation_counts
    percentage = settings.data.validation_split_percentage
    if _wants_evaluation(settings) and validation is None and percentage is not None:
        validation, rest = splitting.split(train, percentage, seed)
        if rest is None:
            raise UsageError(f"--validation_split_percentage {percentage} leaves no row to train on")
        train, counts = rest, Counts(num_read=len(validation), num_kept=len(validation))
    eos_id = inputs.tokenizer.eos_id
    audits = {"train": audit(train, encoded.train_counts, inputs.sources, eos_id)}
    if validation is not None and counts is not None:
        audits["validation"] = audit(validation, counts, inputs.validation_sources or inputs.sources, eos_id)
    for name, report in audits.items():
        for line in summary(f"data, {name}", report):
            logger.info(line)
    return train, validation, audits


def _wants_evaluation(settings: Settings) -> bool:
    return bool(settings.training.get("do_eval")) or settings.training_value("eval_strategy") != "no"


def encode_records(settings: Settings, some: list[Record], tokenizer: Tokenizer) -> tuple[Examples, Counts]:
    """Encode with the settings' length policy."""
    data = settings.data
    return encode(
        some,
        tokenizer,
        ALPACA_ZH,
        max_seq_length=data.max_seq_length,
        truncation=data.truncation,
        num_threads=data.preprocessing_num_workers,
    )
