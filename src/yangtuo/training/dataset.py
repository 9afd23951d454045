"""Settings -> the rows that are trained and evaluated on. Shared by all verbs that read data; imports no torch."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo import output
from yangtuo.config.choices import Deduplicate
from yangtuo.config.json_values import object_of
from yangtuo.config.schema import DataArguments
from yangtuo.config.settings import Settings
from yangtuo.data import dedup, mixing, splitting
from yangtuo.data.audit import audit, dropped_rows, summary
from yangtuo.data.encoding import EncodingOptions, end_id, lacks_bos
from yangtuo.data.encoding_cache import EncodedFiles, EncodingCache
from yangtuo.data.examples import Examples, RowOutcome
from yangtuo.data.readers import columns, reader, search
from yangtuo.data.readers.reader import ReadOptions
from yangtuo.data.records import Source
from yangtuo.data.template_choice import KEEPS_OWN_SYSTEM, keeps_own_system
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import AdapterError, DataError, UsageError
from yangtuo.i18n import Message
from yangtuo.model import provenance
from yangtuo.model.folders import cache_folder, local_folder
from yangtuo.model.hubs import source_of

logger = logging.getLogger(__name__)

_MOST_SHOWN = 10
AUDIT_FILE, DROPPED_FILE = "data_audit.json", "dropped_rows.jsonl"


def find_tokenizer(settings: Settings, base_folder: Path | None, adapter_folder: Path | None) -> Tokenizer:
    """The tokenizer that was named, else the adapter's, else the base's."""
    named = settings.model.tokenizer_name_or_path
    folders = [folder for folder in (adapter_folder, base_folder) if folder]
    tokenizer = provenance.find_tokenizer(folders, named, source_of(settings.model))
    if tokenizer is None and not folders:
        raise UsageError("--model_name_or_path is missing: the base's folder, or --tokenizer_name_or_path alone")
    if tokenizer is None:
        raise UsageError("--tokenizer_name_or_path is missing, and neither adapter nor base holds a tokenizer")
    if not named:
        logger.info("tokenizer: %s (no --tokenizer_name_or_path given)", tokenizer.folder)
    return tokenizer


@dataclass(frozen=True)
class DataInputs:
    """What rows become ids by, and the files that they are in; no row is read yet."""

    tokenizer: Tokenizer
    template: Template
    train_files: list[Path]
    validation_files: list[Path] | None

    @property
    def end_id(self) -> int:
        """Id of the token that ends an answer."""
        return end_id(self.tokenizer, self.template)


def open_data(settings: Settings, base: Path | None, adapter: Path | None) -> DataInputs:
    """Tokenizer, template and files, from the folders of the base and of the adapter that is continued."""
    tokenizer = find_tokenizer(settings, base, adapter)
    return DataInputs(tokenizer, find_template(settings, tokenizer, adapter), *find_data(settings))


def folders(settings: Settings) -> tuple[Path | None, Path | None]:
    """Folders of base and adapter, where they are named, for verbs that need no weights."""
    model = settings.model
    base = None
    if model.model_name_or_path:
        base = local_folder(
            model.model_name_or_path,
            option="model_name_or_path",
            must_hold=["config.json"],
            source=source_of(model),
            weights=False,
        )
    adapter = Path(settings.lora.peft_path) if settings.lora.peft_path else None
    if adapter and not (adapter / "adapter_config.json").is_file():
        raise AdapterError(
            "--peft_path {adapter}: no adapter_config.json in it; give the folder of an adapter", adapter=adapter
        )
    return base, adapter


def find_data(settings: Settings) -> tuple[list[Path], list[Path] | None]:
    """Training files and validation files; None where no validation file is given. Nothing is read yet."""
    data = settings.data
    place = data.train_file or data.dataset_dir
    if not place:
        raise UsageError("--dataset_dir is missing: the folder with the data files to train on")
    validation, recursive = None, data.include_subfolders
    if data.validation_file:
        validation = search.find_files(
            data.validation_file, option="validation_file", recursive=data.include_subfolders
        )
    option, recursive = "train_file" if data.train_file else "dataset_dir", data.include_subfolders
    found = search.find_files(place, exclude=validation or (), option=option, recursive=recursive)
    if not found:
        raise UsageError("--{option} {place}: nothing is left without the validation file", option=option, place=place)
    if validation and len(found) < len(search.find_files(place, option=option, recursive=recursive)):
        logger.warning("data: the validation file lies in the training folder and is left out of training")
    if option == "dataset_dir":
        if len(found) > 1:
            shown, num_more = ", ".join(path.name for path in found[:_MOST_SHOWN]), len(found) - _MOST_SHOWN
            if num_more > 0:
                logger.info("data: files: %s and %d more", shown, num_more)
            else:
                logger.info("data: files: %s", shown)
        for line in search.left_out(place, exclude=validation or (), recursive=recursive):
            logger.warning("data: %s", line)
    read_options(data)  # --columns is looked at before anything is read
    if data.mix:
        mixing.parse(data.mix, list(map(str, found)))
    return found, validation


def find_template(settings: Settings, tokenizer: Tokenizer, adapter: Path | None) -> Template:
    """The template that was named, or the adapter's, or that fits the tokenizer; said."""
    data = settings.data
    folders = [adapter] if adapter else []
    kwargs = object_of("chat_template_kwargs", data.chat_template_kwargs)
    template, why = provenance.find_template(folders, tokenizer, data.template, data.system_prompt, kwargs)
    logger.info("template: %s (%s)", template.name, why)
    of_adapter = provenance.template_of(adapter) if adapter else None
    if of_adapter and of_adapter.identity() != template.identity():
        logger.warning(
            "template: the adapter in %s was trained with %s, or another system prompt; it will learn to be asked "
            "otherwise",
            adapter,
            of_adapter.name,
        )
    if end_id(tokenizer, template) != tokenizer.eos_id:
        logger.info(
            "template: answers end with %s; the tokenizer's own end token is %s",
            template.end,
            tokenizer.name_of(tokenizer.eos_id),
        )
    if lacks_bos(tokenizer, template):
        name = tokenizer.name_of(tokenizer.bos_id or 0)
        logger.info("template: it writes no %s, so that none is trained; servers add none either", name)
    return template


def encode_data(settings: Settings, inputs: DataInputs) -> tuple[EncodedFiles, EncodedFiles | None]:
    """Training rows and validation rows as ids, before any of them is set aside."""
    train = encode_files(settings, inputs.train_files, inputs.tokenizer, inputs.template)
    validation = None
    if inputs.validation_files is not None:
        validation = encode_files(settings, inputs.validation_files, inputs.tokenizer, inputs.template)
    check_columns(settings, [*train.sources, *(validation.sources if validation else ())])
    return train, validation


def encode_files(settings: Settings, paths: Sequence[Path], tokenizer: Tokenizer, template: Template) -> EncodedFiles:
    """The rows of the files as ids, from the store where it has them."""
    data = settings.data
    store = EncodingCache(store_folder(data.data_cache_dir), data.overwrite_cache, data.preprocessing_num_workers)
    stored = store.encoded(
        paths,
        tokenizer,
        EncodingOptions(template, data.max_seq_length, data.truncation, data.parse_special_tokens, data.history),
        read_options(data),
    )
    for line in reader.told(stored.sources):
        logger.warning("data: %s", line)
    num_without = stored.examples.num_with(RowOutcome.NO_SYSTEM)
    if num_without and keeps_own_system(template):
        logger.warning("data: %s rows have an empty system prompt: %s", f"{num_without:,}", KEEPS_OWN_SYSTEM)
    return stored


def read_options(data: DataArguments) -> ReadOptions:
    """How files are read.

    Raises:
        UsageError: everything that is wrong with `--columns`.
    """
    asked = columns.parse(data.columns, data.data_format) if data.columns else None
    return ReadOptions(
        data.data_format, data.bad_rows, data.max_rows, data.train_turns, asked, data.allow_empty_answers
    )


def check_columns(settings: Settings, sources: Sequence[Source]) -> None:
    """Refuse `--columns` of which no file has any; a file without them is read by its own names.

    Raises:
        DataError: no file has one.
    """
    if settings.data.columns and not any(source.is_asked for source in sources):
        told = [f"{source.path}: {source.layout}" for source in sources]
        raise DataError.of_problems("--columns", told)


def tell_without_effect(settings: Settings, names: Sequence[str], why: str) -> None:
    """Say which of these options were given for nothing."""
    for name in names:
        if settings.given(name):
            logger.warning("--%s has no effect: %s", name, why)


def store_folder(given: str | None) -> Path | None:
    """Where encoded rows are kept; None where there is no such place."""
    cache = cache_folder()
    return Path(given) if given else cache and cache / "encoded"


def wants_evaluation(settings: Settings) -> bool:
    """Whether anything is evaluated."""
    return settings.trainer.do_eval or settings.trainer.eval_strategy != "no"


@dataclass(frozen=True)
class Corpus:
    """What is trained and evaluated on.

    Attributes:
        train: rows.
        validation: rows; None without evaluation.
        mix: for each file of `train.paths`, how often an epoch has its rows; None for once each.
        audits: what became of the rows, for `data_audit.json`.
        dropped: rows that are not trained on, for `dropped_rows.jsonl`.
    """

    train: Examples
    validation: Examples | None
    mix: tuple[float, ...] | None
    audits: dict[str, Any]
    dropped: list[dict[str, Any]]

    def num_rows_of_epoch(self) -> int:
        """Rows of an epoch, with repetitions."""
        return len(self.train) if self.mix is None else sum(self.rows_by_file())

    def rows_by_file(self) -> list[int]:
        """Rows of each file in an epoch."""
        weights = self.mix or (1.0,) * len(self.train.paths)
        return mixing.num_rows_of_epoch(self.train.source_numbers, weights)


def split_and_audit(
    settings: Settings, encoded: EncodedFiles, validation: EncodedFiles | None, end: int, seed: int
) -> Corpus:
    """Leave repeats out where asked for, set the validation part aside, and say what became of the rows.

    Args:
        settings: of the run.
        encoded: all training rows.
        validation: the rows of `--validation_file`.
        end: id that ends an answer.
        seed: of the draw of the rows that are set aside.

    Raises:
        UsageError: no row is left to train on.
    """
    train, aside = encoded.examples, validation.examples if validation else None
    repeats = dedup.exact_repeats(train)
    num_exact = train.num_rows(repeats)
    if settings.data.deduplicate is Deduplicate.NEAR:
        repeats = dedup.near_repeats(train)
    num_repeats = train.num_rows(repeats)
    if settings.data.deduplicate is not Deduplicate.OFF:
        train = train.take(np.flatnonzero(~repeats))
    percentage = settings.data.validation_split_percentage
    if wants_evaluation(settings) and aside is None and percentage is not None:
        aside, rest = splitting.split(train, percentage, seed)
        if rest is None:
            raise UsageError(
                "--validation_split_percentage {percentage} leaves no row to train on", percentage=percentage
            )
        train = rest
    is_left_out = settings.data.deduplicate is not Deduplicate.OFF
    audits = {"train": audit(train, encoded, end)}
    audits["train"] |= {
        "repeated_rows": num_exact,
        "repeated_rows_left_out": num_repeats if is_left_out else 0,
        "rows_set_aside_for_evaluation": 0 if aside is None or validation else aside.num_rows(),
    }
    if aside is not None:
        audits["validation"] = audit(aside, validation or replace(encoded, num_bad=0, reasons={}), end)
        audits["validation"]["prompts_also_trained_on"] = splitting.num_shared_prompts(train, aside)
        if not validation:
            audits["validation"]["rows_read"] = aside.num_rows()
    mix = mixing.parse(settings.data.mix, train.paths) if settings.data.mix else None
    if mix and not sum(mixing.num_rows_of_epoch(train.source_numbers, mix)):
        raise UsageError("--mix {mix}: an epoch would have no row; raise one of the numbers", mix=settings.data.mix)
    return Corpus(train, aside, mix, audits, dropped_rows([encoded, *([validation] if validation else [])]))


_DATA_OF = {"train": Message("data, train"), "validation": Message("data, validation")}


def log_summary(corpus: Corpus) -> None:
    """Say what became of the rows."""
    for name, report in corpus.audits.items():
        for line in summary(_DATA_OF[name], report):
            logger.info(line)
        if report.get("repeated_rows") and not report["repeated_rows_left_out"]:  # of training rows alone
            logger.info(
                "  %s rows are equal to an earlier one; --deduplicate exact leaves them out", report["repeated_rows"]
            )
    shared = corpus.audits.get("validation", {}).get("prompts_also_trained_on")
    if shared:
        logger.warning("data: %d validation rows have a prompt that is trained on too; their loss flatters", shared)
    if corpus.mix:
        pairs = zip(corpus.train.paths, corpus.rows_by_file(), strict=True)
        logger.info("mix: rows of an epoch: %s", ", ".join(f"{Path(path).name} {rows:,}" for path, rows in pairs))


def tell_of_files(written: Sequence[Path]) -> None:
    """Say what was written."""
    if written:
        logger.info("written: %s", ", ".join(map(str, written)))


def write_audit(folder: Path, audits: dict[str, Any], dropped: Sequence[dict[str, Any]]) -> list[Path]:
    """Write the audit and, where there are any, the dropped rows; returns the files.

    Raises:
        WriteError: one cannot be written.
    """
    written = [folder / AUDIT_FILE]
    with output.whole_file(written[0]) as file:
        file.write(json.dumps(audits, ensure_ascii=False, indent=2) + "\n")
    if dropped:
        written.append(folder / DROPPED_FILE)
        with output.whole_file(written[1]) as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in dropped)
    return written
