"""Questions to be answered: those of a file, or what stands before the last answer of encoded rows. Imports no torch.

Prompts of a file are rendered as a row for training is, without its answer. Prompts of encoded rows are the very ids
that stand before their last answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yangtuo.config.choices import DataFormat
from yangtuo.data.encoding import Encoder, EncodingOptions, prompt_ids
from yangtuo.data.examples import Examples
from yangtuo.data.readers import files, formats, recognition
from yangtuo.data.readers.decode import encoding_of
from yangtuo.data.readers.reader import ReadOptions
from yangtuo.data.readers.recognition import Layout
from yangtuo.data.readers.tool_use import beside
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template, TemplateFault
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError
from yangtuo.i18n import Message

_MARK = "yangtuo"  # a question whose place in the template's text is looked for
_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv", ".xlsx")


@dataclass(frozen=True)
class PromptRow:
    """A question that is to be answered.

    Attributes:
        text: what is asked, for log and screen.
        ids: what the model reads.
        reference: the answer that the row has; "" without one.
        where: file and row that it stands in.
    """

    text: str
    ids: tuple[int, ...]
    reference: str = ""
    where: str = ""


def of_examples(
    tokenizer: Tokenizer, template: Template, examples: Examples, numbers: Sequence[int]
) -> list[PromptRow]:
    """The prompts of the last answers of some encoded rows."""
    before, _, after = tokenizer.decode(_ids_of(tokenizer, template, _MARK)).partition(_MARK)
    return [_of_row(tokenizer, examples, int(i), (before, after)) for i in numbers]


def _ids_of(tokenizer: Tokenizer, template: Template, question: str) -> list[int]:
    try:
        return prompt_ids(tokenizer, template, [Turn("user", question, trained=False)])
    except TemplateFault:  # it wants a system prompt, say; then texts are shown with what stands around them
        return []


def _of_row(tokenizer: Tokenizer, examples: Examples, i: int, around: tuple[str, str]) -> PromptRow:
    ids, supervised = examples.row(i)
    end = int(np.flatnonzero(supervised)[-1]) + 1
    context = np.flatnonzero(~supervised[:end])
    begin = int(context[-1]) + 1 if len(context) else 0
    text = tokenizer.decode(ids[:begin].tolist()).removeprefix(around[0]).removesuffix(around[1])
    reference = tokenizer.decode(ids[begin:end].tolist()).strip()
    return PromptRow(text.strip(), tuple(ids[:begin].tolist()), reference, examples.where(i))


def check_file(path: Path, *, option: str) -> None:
    """Refuse what is no file of prompts; `option` names the file, for messages.

    Raises:
        DataError: it is none, by its place or its name.
    """
    if not path.is_file():
        told = Message("a folder") if path.is_dir() else Message("no such file")
        raise DataError(
            "--{option} {path}: {told}; give a .txt with a prompt a line, a .json or .jsonl with rows",
            option=option,
            path=path,
            told=told,
        )
    if path.suffix.lower() not in _SUFFIXES:
        if path.suffix.lower() in _TABLES:
            raise DataError(
                "--{option} {path}: its name has to end in one of {suffixes}; of a table, save the questions as a "
                ".txt, a line each",
                option=option,
                path=path,
                suffixes=", ".join(_SUFFIXES),
            )
        raise DataError(
            "--{option} {path}: its name has to end in one of {suffixes}; rename it",
            option=option,
            path=path,
            suffixes=", ".join(_SUFFIXES),
        )


def of_file(
    path: Path, tokenizer: Tokenizer, options: EncodingOptions, read: ReadOptions, *, option: str
) -> Iterator[PromptRow]:
    """The prompts of a file: a line each of a .txt, a row each of JSON, as training data, with or without an answer.

    Args:
        path: the file.
        tokenizer: makes the ids.
        options: template and control tokens; prompts are not shortened.
        read: how rows are read.
        option: that names the file, for messages.

    Raises:
        DataError: the file cannot be used; all bad rows are named, once the good ones have been given.
    """
    check_file(path, option=option)
    encoder = Encoder(tokenizer, options, num_threads=1)
    is_text = path.suffix.lower() == ".txt"
    problems: list[str] = []
    for where, turns, tools in _lines(path) if is_text else _rows(path, read, problems, option):
        last = max(i for i, turn in enumerate(turns) if turn.role == "user")
        reference = turns[-1].text.strip() if turns[-1].role == "assistant" else ""
        try:
            ids = encoder.prompt(turns[: last + 1], tools)
        except TemplateFault as fault:
            problems.append(Message("{where}: {fault}", where=where, fault=fault))
            continue
        yield PromptRow(turns[last].text, tuple(ids), reference, where)
    if problems:
        raise DataError.of_problems(f"--{option}", problems)


_Asked = tuple[str, tuple[Turn, ...], tuple[Any, ...]]  # where it stands, the dialogue, the tools that may be called


def _lines(path: Path) -> Iterator[_Asked]:
    """A prompt a line; empty lines are none."""
    for number, line in enumerate(path.read_text(encoding=encoding_of(path)).splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", (Turn("user", line.strip(), trained=False),), ()


def _rows(path: Path, read: ReadOptions, problems: list[str], option: str) -> Iterator[_Asked]:
    """Rows as training data, which may lack the last answer; adds to `problems` what is wrong with them."""
    layout: Layout | None = None
    for value in files.values_of(path, None, read.columns)[1]:
        where = f"{path} row {value.row}" if value.line is None else f"{path}:{value.line} row {value.row}"
        content = _with_answer(value.content)
        if layout is None and not value.fault:
            found = recognition.layout_of(content, data_format=read.data_format, columns=read.columns)
            if isinstance(found, str):
                raise DataError("--{option} {where}: {found}", option=option, where=where, found=found)
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
        problems += [Message("{where}: {fault}", where=where, fault=fault) for fault in faults]
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
