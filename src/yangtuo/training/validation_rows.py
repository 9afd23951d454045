"""The rows that a run is evaluated on, encoded once more for a model that is asked after it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo.config.choices import Deduplicate
from yangtuo.config.settings import Settings
from yangtuo.data import dedup, splitting
from yangtuo.data.examples import Examples
from yangtuo.data.readers import search
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import UsageError
from yangtuo.training.dataset import check_columns, encode_files, find_data


@dataclass(frozen=True)
class ValidationRows:
    """Where they come from.

    Attributes:
        settings: of the run, or as asked for; they say how files are read.
        files: that hold them, or of which a part was set aside.
        seed: of the draw of that part.
    """

    settings: Settings
    files: tuple[Path, ...]
    seed: int

    def encoded(self, tokenizer: Tokenizer, template: Template) -> Examples:
        """The rows as a run encodes them.

        Raises:
            DataError: rows that cannot be used.
        """
        data = self.settings.data
        if data.validation_file:
            # Rows of the validation set are not cut in number by the option for training files.
            stored = encode_files(self.settings, self.files, tokenizer, template)
            check_columns(self.settings, stored.sources)
            return stored.examples
        examples = encode_files(self.settings, self.files, tokenizer, template).examples
        if data.deduplicate is not Deduplicate.OFF:
            is_near = data.deduplicate is Deduplicate.NEAR
            repeats = dedup.near_repeats(examples) if is_near else dedup.exact_repeats(examples)
            examples = examples.take(np.flatnonzero(~repeats))
        assert data.validation_split_percentage is not None
        return splitting.split(examples, data.validation_split_percentage, self.seed)[0]

    def told(self, examples: Examples) -> list[dict[str, Any]]:
        """Files with the number of their rows, for a record."""
        counts = np.bincount(examples.source_numbers, minlength=len(examples.paths))
        return [{"path": path, "num_rows": int(count)} for path, count in zip(examples.paths, counts, strict=True)]


def validation_rows(settings: Settings, seed: int) -> ValidationRows | None:
    """The rows that these settings evaluate on; None where they name none.

    Raises:
        DataError: a file is not there.
    """
    data = settings.data
    if data.validation_file:
        files = search.find_files(data.validation_file, option="validation_file", recursive=data.include_subfolders)
        return ValidationRows(settings, tuple(files), seed)
    if data.validation_split_percentage is None:
        return None
    if not (data.dataset_dir or data.train_file):
        raise UsageError("--validation_split_percentage is a part of --dataset_dir or --train_file; name one")
    return ValidationRows(settings, tuple(find_data(settings)[0]), seed)
