"""`--sample_prompts`: the questions that are asked at each evaluation, as ids; read and refused before any weight.

Prompts of a file are rendered as a row for training is, without its answer. Prompts of the validation set are the very
ids that its rows have before their last answer. Imports no torch.
"""

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from yangtuo.config.settings import Settings
from yangtuo.data import prompt_rows
from yangtuo.data.encoding import EncodingOptions
from yangtuo.data.examples import Examples
from yangtuo.data.prompt_rows import PromptRow
from yangtuo.data.readers.shown import short
from yangtuo.errors import DataError, UsageError
from yangtuo.i18n import Message
from yangtuo.training.dataset import DataInputs, read_options, tell_without_effect

MOST_PROMPTS = 16
_USUAL = 4  # rows of the validation set, where no number is given
_VALIDATION = re.compile(r"validation(?::(\d+))?")


def find(settings: Settings, inputs: DataInputs, validation: Examples | None, seed: int) -> list[PromptRow]:
    """The prompts that the options name; none without `--sample_prompts`.

    Args:
        settings: of the run.
        inputs: tokenizer and template.
        validation: the rows that are evaluated.
        seed: of the draw of validation rows.

    Raises:
        UsageError: too many prompts, or none.
        DataError: the file cannot be used; all bad rows are named.
    """
    named = settings.run.sample_prompts
    if named is None:
        tell_without_effect(settings, ["sample_tokens"], Message("no --sample_prompts is given"))
        return []
    if match := _VALIDATION.fullmatch(named):
        num = int(match[1] or _USUAL)
        _check_number(named, num)
        return [] if validation is None else _of_validation(inputs, validation, num, seed)
    found = _of_file(settings, inputs, Path(os.path.expanduser(named)))
    prompts = list(itertools.islice(found, MOST_PROMPTS + 1))  # it may be a training file
    _check_number(named, len(prompts))
    return prompts


def _check_number(named: str, num: int) -> None:
    if not 1 <= num <= MOST_PROMPTS:
        too_many = Message("more than {most} prompts", most=MOST_PROMPTS)
        raise UsageError(
            "--sample_prompts {named}: {told}; give 1 to {most}, since each is answered at each evaluation",
            named=named,
            told=too_many if num else Message("no prompts in it"),
            most=MOST_PROMPTS,
        )


def _of_validation(inputs: DataInputs, validation: Examples, num: int, seed: int) -> list[PromptRow]:
    """One row by lot out of each of `num` equal parts."""
    firsts = validation.firsts()
    draws = np.random.default_rng(seed)
    parts = np.array_split(firsts, min(num, len(firsts)))
    chosen = [int(draws.choice(part)) for part in parts]
    return prompt_rows.of_examples(inputs.tokenizer, inputs.template, validation, chosen)


def _of_file(settings: Settings, inputs: DataInputs, path: Path) -> Iterator[PromptRow]:
    options = EncodingOptions(
        inputs.template, max_seq_length=0, parse_special_tokens=settings.data.parse_special_tokens
    )
    return prompt_rows.of_file(path, inputs.tokenizer, options, read_options(settings.data), option="sample_prompts")


def refuse_without_room(prompts: list[PromptRow], named: str | None, num_positions: int | None) -> None:
    """Refuse prompts that leave the model no position for an answer.

    Raises:
        DataError: the first of them.
    """
    for prompt in prompts:
        if num_positions is not None and len(prompt.ids) >= num_positions:
            raise DataError(
                "--sample_prompts {named}: {text} makes a prompt of {num_ids:,} tokens; the model has positions for "
                "{num_positions:,}, answer included; shorten it",
                named=named,
                text=short(prompt.text),
                num_ids=len(prompt.ids),
                num_positions=num_positions,
            )
