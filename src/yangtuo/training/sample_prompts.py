"""`--sample_prompts`: the questions that are asked at each evaluation, as ids; read and refused before any weight.

Prompts of a file are rendered as a row for training is, without its answer. Prompts of the validation set are the very
ids that its rows have before their last answer. Imports no torch.
"""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo.config.choices import DataFormat
from yangtuo.config.schema import DataArguments
from yangtuo.config.settings import Settings
from yangtuo.data.encoding import Encoder, EncodingOptions, prompt_ids
from yangtuo.data.examples import Examples
from yangtuo.data.readers import files, formats, recognition
from yangtuo.data.readers.decode import encoding_of
from yangtuo.data.readers.recognition import Layout
from yangtuo.data.readers.shown import short
from yangtuo.data.readers.tool_use import beside
from yangtuo.data.records import Turn
from yangtuo.data.templates import TemplateFault
from yangtuo.errors import DataError, UsageError
from yangtuo.training.dataset import DataInputs, read_options, tell_without_effect

MOST_PROMPTS = 16
_USUAL = 4  # rows of the validation set, where no number is given
_VALIDATION = re.compile(r"validation(?::(\d+))?")
_MARK = "yangtuo"  # a question whose place in the template's text is looked for
_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class SamplePrompt:
    """A question that is asked again and again.

    Attributes:
        text: what is asked, for log and screen.
        ids: what the model reads.
        reference: the answer that the row has; "" without one.
    """

    text: str
    ids: tuple[int, ...]
    reference: str = ""


def find(settings: Settings, inputs: DataInputs, validation: Examples | None, seed: int) -> list[SamplePrompt]:
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
        tell_without_effect(settings, ["sample_tokens"], "no --sample_prompts is given")
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
        told = f"more than {MOST_PROMPTS}" if num else "no"
        raise UsageError(
            f"--sample_prompts {named}: {told} prompts; give 1 to {MOST_PROMPTS}, since each is answered at "
            "each evaluation"
        )


# ---- of the validation set


def _of_validation(inputs: DataInputs, validation: Examples, num: int, seed: int) -> list[SamplePrompt]:
    """One row by lot out of each of `num` equal parts."""
    before, _, after = inputs.tokenizer.decode(_ids_of(inputs, _MARK)).partition(_MARK)
    firsts = validation.firsts()
    draws = np.random.default_rng(seed)
    parts = np.array_split(firsts, min(num, len(firsts)))
    return [_of_row(inputs, validation, int(draws.choice(part)), (before, after)) for part in parts]


def _ids_of(inputs: DataInputs, question: str) -> list[int]:
    try:
        return prompt_ids(inputs.tokenizer, inputs.template, [Turn("user", question, trained=False)])
    except TemplateFault:  # it wants a system prompt, say; then texts are shown with what stands around them
        return []


def _of_row(inputs: DataInputs, validation: Examples, i: int, around: tuple[str, str]) -> SamplePrompt:
    ids, supervised = validation.row(i)
    end = int(np.flatnonzero(supervised)[-1]) + 1
    context = np.flatnonzero(~supervised[:end])
    begin = int(context[-1]) + 1 if len(context) else 0
    text = inputs.tokenizer.decode(ids[:begin].tolist()).removeprefix(around[0]).removesuffix(around[1])
    reference = inputs.tokenizer.decode(ids[begin:end].tolist()).strip()
    return SamplePrompt(text.strip(), tuple(ids[:begin].tolist()), reference)


# ---- of a file


def _of_file(settings: Settings, inputs: DataInputs, path: Path) -> Iterator[SamplePrompt]:
    if not path.is_file():
        told = "a folder" if path.is_dir() else "no such file"
        raise DataError(
            f"--sample_prompts {path}: {told}; give a .txt with a prompt a line, a .json or .jsonl with rows, or "
            "validation for rows of the validation set"
        )
    if path.suffix.lower() not in _SUFFIXES:
        raise DataError(f"--sample_prompts {path}: known by its name are {', '.join(_SUFFIXES)}; rename it")
    options = EncodingOptions(
        inputs.template, max_seq_length=0, parse_special_tokens=settings.data.parse_special_tokens
    )
    encoder = Encoder(inputs.tokenizer, options, num_threads=1)
    is_text = path.suffix.lower() == ".txt"
    problems: list[str] = []
    for where, turns, tools in _lines(path) if is_text else _rows(path, settings.data, problems):
        last = max(i for i, turn in enumerate(turns) if turn.role == "user")
        reference = turns[-1].text.strip() if turns[-1].role == "assistant" else ""
        try:
            ids = encoder.prompt(turns[: last + 1], tools)
        except TemplateFault as fault:
            problems.append(f"{where}: {fault}")
            continue
        yield SamplePrompt(turns[last].text, tuple(ids), reference)
    if problems:
        raise DataError.of_problems("--sample_prompts", problems)


_Asked = tuple[str, tuple[Turn, ...], tuple[Any, ...]]  # where it stands, the dialogue, the tools that may be called


def _lines(path: Path) -> Iterator[_Asked]:
    """A prompt a line; empty lines are none."""
    for number, line in enumerate(path.read_text(encoding=encoding_of(path)).splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", (Turn("user", line.strip(), trained=False),), ()


def _rows(path: Path, data: DataArguments, problems: list[str]) -> Iterator[_Asked]:
    """Rows as training data, which may lack the last answer; adds to `problems` what is wrong with them."""
    columns = read_options(data).columns
    layout: Layout | None = None
    for value in files.values_of(path, None, columns)[1]:
        where = f"{path} row {value.row}" if value.line is None else f"{path}:{value.line} row {value.row}"
        content = _with_answer(value.content)
        if layout is None and not value.fault:
            found = recognition.layout_of(content, data_format=data.data_format, columns=columns)
            if isinstance(found, str):
                raise DataError(f"--sample_prompts {where}: {found}")
            layout = found
        faults = [value.fault] if value.fault else []
        if not faults and layout and layout.as_known:
            content, faults = layout.as_known(content)
        turns: tuple[Turn, ...] = ()
        tools: tuple[Any, ...] = ()
        if not faults:
            turns, faults = formats.turns_of(content, layout.data_format if layout else DataFormat.ALPACA)
        if not faults:
            turns, tools, _, faults = beside(content, turns)
        problems += [f"{where}: {fault}" for fault in faults]
        if not faults:
            yield where, turns, tools


def _with_answer(row: Any) -> Any:
    """The row with an empty answer where it ends with a question; nothing is made of it."""
    if not isinstance(row, dict):
        return row
    for key in ("messages", "conversations"):
        turns = row.get(key)
        if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict):
            continue
        if (turns[-1].get("role") or turns[-1].get("from")) in ("user", "human"):
            names = ("role", "content") if "role" in turns[-1] else ("from", "value")
            return {**row, key: [*turns, dict(zip(names, ("assistant", ""), strict=True))]}
    for question, answer in (("instruction", "output"), ("prompt", "completion")):
        if isinstance(row.get(question), str) and row.get(answer) is None:
            return {**row, answer: ""}
    return row


def refuse_without_room(prompts: list[SamplePrompt], named: str | None, num_positions: int | None) -> None:
    """Refuse prompts that leave the model no position for an answer.

    Raises:
        DataError: the first of them.
    """
    for prompt in prompts:
        if num_positions is not None and len(prompt.ids) >= num_positions:
            raise DataError(
                f"--sample_prompts {named}: {short(prompt.text)} makes a prompt of {len(prompt.ids):,} tokens; the "
                f"model has positions for {num_positions:,}, answer included; shorten it"
            )
