"""Opening everything that a run reads, in the order in which its errors are cheapest to see; no weights of the base."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import PreTrainedConfig

from yangtuo.config.choices import ModulesToSavePolicy
from yangtuo.config.schema import LoraArguments
from yangtuo.config.settings import Settings
from yangtuo.data import measures
from yangtuo.data.encoding_cache import EncodedFiles
from yangtuo.data.examples import Examples
from yangtuo.data.tokenizer import Tokenizer, is_tokenizer_folder, open_tokenizer
from yangtuo.errors import DataError, ModelError, TokenizerError, UsageError
from yangtuo.i18n import Message
from yangtuo.model import (
    adapter_files,
    architecture,
    base,
    fingerprint,
    lora_checks,
    lora_options,
    lora_targets,
    processor,
    provenance,
)
from yangtuo.model.adapter_files import SavedAdapter
from yangtuo.model.folders import local_folder
from yangtuo.model.hubs import source_of
from yangtuo.training.dataset import (
    DataInputs,
    encode_data,
    encode_files,
    open_data,
    tell_without_effect,
    wants_evaluation,
)
from yangtuo.training.plan import check_learning_rate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs(DataInputs):
    """Everything that a run reads, opened and checked; no weights of the base yet.

    `merged_in` are adapters that are put into the base in memory, in order, below the one that is trained.
    """

    base: Path
    config: PreTrainedConfig
    adapter: SavedAdapter | None
    merged_in: list[SavedAdapter]


def open_inputs(settings: Settings) -> Inputs:
    """Open base, adapter, tokenizer and data, in the order in which their errors are cheapest to see."""
    model, lora = settings.model, settings.lora
    if not model.model_name_or_path:
        raise UsageError("--model_name_or_path is missing: the folder of the base model")
    folder_of_base = local_folder(
        model.model_name_or_path,
        option="model_name_or_path",
        must_hold=["config.json"],
        source=source_of(model),
    )
    config = architecture.read_config(folder_of_base, trust_remote_code=model.trust_remote_code)
    check_learning_rate(settings, folder_of_base)
    base.check_positions(config, settings.data.max_seq_length)
    base.check_attention(config, model, processor.detect_hardware(settings.trainer.use_cpu))
    saved = adapter_files.read(lora.peft_path) if lora.peft_path else None
    known, merged_in = None, []
    if saved:
        there = fingerprint.merged_into(folder_of_base)
        merged_in = [adapter_files.read(str(place)) for place in provenance.below(saved.folder, there)]
        merged = [each.sha256 for each in merged_in]
        known = fingerprint.check(saved.folder, folder_of_base, config, merged=merged, force=lora.force_base)
        merged_in += [saved] if lora.new_adapter else []
    _check_verbs(settings)
    modules = architecture.modules_of(config, trust_remote_code=model.trust_remote_code)
    if saved and not lora.new_adapter:
        lora_options.check_contradictions(saved, lora, settings.origins, modules)
        # Of the options, only modules to be added are not the adapter's own.
        lora = LoraArguments(
            trainable=lora_targets.ALL_LINEAR,
            modules_to_save=lora.modules_to_save,
            loraplus_lr_ratio=lora.loraplus_lr_ratio,
        )
    lora_checks.check_options(lora, modules)
    data = open_data(settings, folder_of_base, saved.folder if saved else None)
    if saved and not is_tokenizer_folder(saved.folder):  # else ids are compared on the data
        fingerprint.check_tokenizer(known, saved.folder, data.tokenizer, force=settings.lora.force_base)
    if why := _no_new_token(settings, data.tokenizer, config, saved):
        raise ModelError(why)
    return Inputs(**vars(data), base=folder_of_base, config=config, adapter=saved, merged_in=merged_in)


def _no_new_token(
    settings: Settings,
    tokenizer: Tokenizer,
    config: PreTrainedConfig,
    adapter: SavedAdapter | None,
    examples: Examples | None = None,
) -> str:
    """Why no new row would be trained where only new ones are to be; an adapter that is continued has its own."""
    if not settings.lora.train_new_tokens_only or (adapter and not settings.lora.new_adapter):
        return ""
    return measures.no_new_token(tokenizer, config.get_text_config().vocab_size, examples)


def _check_verbs(settings: Settings) -> None:
    """Options that only mean something beside an adapter that is continued, or one below a new one."""
    lora = settings.lora
    if not lora.peft_path:
        wrong = [name for name in ("new_adapter", "modules_to_save_policy") if settings.given(name)]
        if wrong:
            raise UsageError("--{wrong} needs --peft_path, which is not given", wrong=wrong[0])
        names = ("force_base", "allow_partial_adapter")
        tell_without_effect(settings, names, Message("no --peft_path is given"))
    elif lora.new_adapter and lora.modules_to_save_policy is not ModulesToSavePolicy.KEEP:
        raise UsageError(
            "--new_adapter merges all of the adapter of --peft_path into the base; leave --modules_to_save_policy out"
        )


def encode_inputs(settings: Settings, inputs: Inputs) -> tuple[EncodedFiles, EncodedFiles | None]:
    """All rows as ids; before processes know of each other, so that none waits in a collective for another's work.

    Raises:
        DataError: no new token is in the rows, where only their rows are to be trained.
    """
    wants_eval = wants_evaluation(settings)
    if wants_eval and inputs.validation_files is None and settings.data.validation_split_percentage is None:
        raise UsageError("evaluation needs --validation_file or --validation_split_percentage; or drop --do_eval")
    if not wants_eval:
        unused = ("validation_file", "validation_split_percentage", "eval_steps")
        tell_without_effect(settings, unused, Message("neither --do_eval nor --eval_strategy is given"))
    if settings.given("per_device_eval_batch_size") and settings.run.loss_reduction == "token":
        logger.warning("--per_device_eval_batch_size has no effect: the mean is over all tokens, memory sets the batch")
    train, validation = encode_data(settings, inputs if wants_eval else replace(inputs, validation_files=None))
    _compare_tokenizers(settings, inputs, train.examples)
    if why := _no_new_token(settings, inputs.tokenizer, inputs.config, inputs.adapter, train.examples):
        raise DataError(why)
    return train, validation


def _compare_tokenizers(settings: Settings, inputs: Inputs, train: Examples) -> None:
    """A tokenizer that was named wins over the adapter's, if the ids of the data are the same."""
    if inputs.adapter is None or not is_tokenizer_folder(inputs.adapter.folder):
        return
    of_adapter = open_tokenizer(inputs.adapter.folder)
    if of_adapter.sha256() == inputs.tokenizer.sha256():
        return
    other = encode_files(settings, inputs.train_files, of_adapter, inputs.template).examples
    if not (np.array_equal(train.ends, other.ends) and np.array_equal(train.input_ids, other.input_ids)):
        raise TokenizerError(
            "the tokenizer {folder} gives other ids for this data than the adapter's own in {inputs_adapter_folder}; "
            "leave --tokenizer_name_or_path out to use that one",
            folder=inputs.tokenizer.folder,
            inputs_adapter_folder=inputs.adapter.folder,
        )
