"""The rows that a run is evaluated on, encoded once more for a model that is asked after it."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo.config.choices import Deduplicate
from yangtuo.config.parser import build_parser, parse
from yangtuo.config.settings import Settings
from yangtuo.data import dedup, splitting
from yangtuo.data.examples import Examples
from yangtuo.data.readers import search
from yangtuo.data.records import Source
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError, UsageError
from yangtuo.i18n import Message
from yangtuo.training.dataset import AUDIT_FILE, check_columns, encode_files, find_data
from yangtuo.training.run_folder import read_run

logger = logging.getLogger(__name__)

# Options that say how rows are read and what of them has a loss, with which a run's own are read again.
OF_FILES = (
    *("validation_file", "data_format", "columns", "bad_rows", "allow_empty_answers", "max_rows"),
    *("include_subfolders", "data_cache_dir"),
)
OF_ROWS = ("max_seq_length", "truncation", "history", "train_turns", "parse_special_tokens")
_OF_SPLIT = ("validation_split_percentage", "dataset_dir", "train_file", "deduplicate")
_PATHS = ("validation_file", "dataset_dir", "train_file")


@dataclass(frozen=True)
class ValidationRows:
    """Where they come from.

    Attributes:
        settings: of the run, or as asked for; they say how files are read.
        files: that hold them, or of which a part was set aside.
        seed: of the draw of that part.
        run: the folder of the run whose rows they are; None for rows that were named.
    """

    settings: Settings
    files: tuple[Path, ...]
    seed: int
    run: Path | None = None

    def encoded(self, tokenizer: Tokenizer, template: Template) -> Examples:
        """The rows as a run encodes them.

        Raises:
            DataError: rows that cannot be used.
        """
        data = self.settings.data
        if data.validation_file:
            stored = encode_files(self.settings, self.files, tokenizer, template)
            check_columns(self.settings, stored.sources)
            self._compare(stored.sources)
            return stored.examples
        stored = encode_files(self.settings, self.files, tokenizer, template)
        self._compare(stored.sources)
        examples = stored.examples
        if data.deduplicate is not Deduplicate.OFF:
            is_near = data.deduplicate is Deduplicate.NEAR
            repeats = dedup.near_repeats(examples) if is_near else dedup.exact_repeats(examples)
            examples = examples.take(np.flatnonzero(~repeats))
        assert data.validation_split_percentage is not None
        return splitting.split(examples, data.validation_split_percentage, self.seed)[0]

    def _compare(self, sources: Sequence[Source]) -> None:
        """Whether the files are those that the run had.

        Raises:
            DataError: of other files another part would be set aside, with rows that the run was trained on.
        """
        known = _hashes(self.run) if self.run else set()
        changed = [source.path for source in sources if known and source.sha256 not in known]
        if not changed and len(known) <= len({source.sha256 for source in sources}):
            return
        what = Message(
            "{run}: the files of its validation rows have changed since ({changed})",
            run=self.run,
            changed=", ".join(changed) or Message("some gone"),
        )
        if self.settings.data.validation_file:
            logger.warning("%s; what is measured now is not the evaluation of the run", what)
        elif known:
            raise DataError("{what}: another part would be set aside; name rows with --validation_file", what=what)

    def told(self, examples: Examples) -> list[dict[str, Any]]:
        """Files with the number of their rows, for a record."""
        counts = np.bincount(examples.source_numbers[examples.firsts()], minlength=len(examples.paths))
        return [{"path": path, "num_rows": int(count)} for path, count in zip(examples.paths, counts, strict=True)]


def rows_of(run: Path | None, given: Mapping[str, Any]) -> ValidationRows | None:
    """The rows that are named, else those that a run was evaluated on; None where there are neither.

    Args:
        run: its folder; None without one.
        given: values of options in `OF_FILES` and `OF_ROWS`; those of the run hold where one is not given.

    Raises:
        UserError: rows that cannot be found, or options with which others than the run's would be set aside.
    """
    record = (read_run(run) if run else None) or {}
    values = _values(record)
    if "validation_file" in given:  # the run's own columns and number of rows are of other files
        values = {name: value for name, value in values.items() if name in OF_ROWS}
        return validation_rows(_settings({**values, **given}), 0)
    if "validation_file" not in values and "validation_split_percentage" in values:
        if not _was_evaluated(record):
            logger.warning("%s: it was not evaluated, so that no rows were set aside; they were all trained on", run)
            return None
        if others := sorted(given.keys() - {"data_cache_dir"}):
            raise UsageError(
                "--{others}: with it other rows would be set aside than {run} was evaluated on, some of which it was "
                "trained on; leave it out, or name rows with --validation_file",
                others=others[0],
                run=run,
            )
    try:
        return validation_rows(_settings({**values, **given}), int(record.get("seed", 0)), run)
    except DataError as error:
        raise DataError(
            "{run}: its validation rows are not here; name rows with --validation_file: {error}", run=run, error=error
        ) from error


def _values(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was given of these options; paths as from the folder in which it was started."""
    names = (*OF_FILES, *OF_ROWS, *_OF_SPLIT)
    entries = {name: entry for name, entry in record.get("arguments", {}).items() if name in names}
    values = {
        name: entry["value"]
        for name, entry in entries.items()
        if entry.get("from") != "default" and entry.get("value") is not None
    }
    began_in = record.get("working_directory") or ""
    return values | {name: _from(began_in, values[name]) for name in _PATHS if name in values}


def _from(folder: str, places: str) -> str:
    whole = os.path.join(folder, places)
    if "," not in places or os.path.exists(whole):  # a name may have a comma in it
        return whole
    return ",".join(os.path.join(folder, name.strip()) for name in places.split(","))


def _was_evaluated(record: Mapping[str, Any]) -> bool:
    arguments = record.get("arguments", {})
    strategy = arguments.get("eval_strategy", {}).get("value") or "no"
    return bool(arguments.get("do_eval", {}).get("value")) or strategy != "no"


def _settings(values: Mapping[str, Any]) -> Settings:
    return parse([f"--{name}={value}" for name, value in values.items()], build_parser("yangtuo eval"))[0]


def _hashes(run: Path) -> set[str]:
    """SHA-256 of the files that a run was evaluated on, or of which a part was set aside."""
    try:
        audit = json.loads((run / AUDIT_FILE).read_text(encoding="utf-8"))
        return {str(file["sha256"]) for file in audit["validation"]["files"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()  # of an earlier version, or not there


def validation_rows(settings: Settings, seed: int, run: Path | None = None) -> ValidationRows | None:
    """The rows that these settings evaluate on; None where they name none.

    Raises:
        DataError: a file is not there.
    """
    data = settings.data
    if data.validation_file:
        files = search.find_files(data.validation_file, option="validation_file", recursive=data.include_subfolders)
        return ValidationRows(settings, tuple(files), seed, run)
    if data.validation_split_percentage is None:
        return None
    if not (data.dataset_dir or data.train_file):
        raise UsageError("--validation_split_percentage is a part of --dataset_dir or --train_file; name one")
    return ValidationRows(settings, tuple(find_data(settings)[0]), seed, run)
