"""Dialogues that a running server is asked, as training encodes them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yangtuo.data.backends import Blank
from yangtuo.data.control_tokens import split_at_controls, swallow_blanks
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.readers import reader as reading
from yangtuo.data.records import Turn
from yangtuo.data.templates import Piece, Template, TemplateFault
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError, UsageError
from yangtuo.i18n import Message

# Turns: an optional system prompt, marked by its place in a pair, then question, answer, question, ...
_GOLDEN: tuple[tuple[str | None, tuple[str, ...]], ...] = (
    (None, ("你好！",)),
    (None, ("请用三句话介绍一下长城。",)),
    (None, ("把下面的句子翻译成英文：\n今天天气很好，我们一起去公园散步吧！",)),
    (None, ("List three primary colours.",)),
    (None, ('写一个 Python 函数 `add(a, b)`，返回 {"sum": a + b}。',)),
    (None, ("你叫什么名字？", "我是一个人工智能助手。", "你会做什么？")),
    (None, ("What is 2 + 3?", "2 + 3 = 5.", "And times 4?", "5 × 4 = 20.", "把刚才的结果加上 1。")),
    ("你是一位耐心的老师。", ("为什么天空是蓝色的？",)),
)


@dataclass(frozen=True)
class Prompt:
    """A dialogue as training encodes it.

    Attributes:
        messages: for the server.
        ids: prompt and past answers tokenised apart, as training does.
        whole: the same text in one piece between control tokens, as servers do.
        text: without the BOS of the tokenizer's own rule.
    """

    messages: list[dict[str, str]]
    ids: list[int]
    whole: list[int]
    text: str


def built_in() -> list[tuple[Turn, ...]]:
    """The built-in prompts."""
    made = []
    for system, texts in _GOLDEN:
        begin = [] if system is None else [Turn("system", system, trained=False)]
        spoken = [Turn("assistant" if i % 2 else "user", text, trained=False) for i, text in enumerate(texts)]
        made.append((*begin, *spoken))
    return made


def of_file(path: Path) -> list[tuple[Turn, ...]]:
    """The rows of a file, each without its last answer.

    Raises:
        DataError: a file or a row that cannot be used.
    """
    if not path.is_file():
        raise UsageError("--prompts {path}: no such file", path=path)
    records, _ = reading.read([path])
    return [record.turns[:-1] for record in records]


def encoded(
    dialogues: Sequence[Sequence[Turn]], tokenizer: Tokenizer, template: Template
) -> tuple[list[Prompt], list[str]]:
    """The dialogues as training encodes them, and why some cannot be.

    Raises:
        DataError: none can be.
    """
    prompts: list[Prompt] = []
    left_out: list[str] = []
    for turns in dialogues:
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        try:
            pieces = list(_pieces(template, tokenizer, turns))
            ids = prompt_ids(tokenizer, template, turns)
        except TemplateFault as fault:
            left_out.append(
                Message(
                    "not asked, since training has no such prompt: {text!r} ({fault})",
                    text=turns[-1].text[:40],
                    fault=fault,
                )
            )
            continue
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        whole = _in_one_piece(pieces, tokenizer, template)
        text = "".join(piece.text for piece in pieces)
        if start and whole[:1] == start:  # the template has it
            text = text.removeprefix(tokenizer.name_of(start[0]) or "")
            start = []
        elif template.writes_bos:
            start = []
        prompts.append(Prompt(messages, ids, start + whole, text))
    if not prompts:
        raise DataError(
            "none of the {num_dialogues} prompts can be asked: {left_out}",
            num_dialogues=len(dialogues),
            left_out=left_out[0],
        )
    return prompts, left_out


def _pieces(template: Template, tokenizer: Tokenizer, turns: Sequence[Turn]) -> Iterator[Piece]:
    """The text of a prompt, up to where the model begins to write."""
    exchanges = template.prompt_of(turns)
    for i, exchange in enumerate(exchanges):
        yield from exchange.before
        yield Piece(exchange.user, is_frame=False)
        yield Piece(exchange.after, is_frame=True)
        if i < len(exchanges) - 1:
            yield from exchange.lead
            yield Piece(exchange.answer, is_frame=False)
            yield Piece(exchange.end or tokenizer.name_of(tokenizer.eos_id) or "", is_frame=True)


def _in_one_piece(pieces: Sequence[Piece], tokenizer: Tokenizer, template: Template) -> list[int]:
    controls = {name: tokenizer.id_of(name) for name in template.control_tokens}
    if template.end is None:
        controls[tokenizer.name_of(tokenizer.eos_id) or ""] = tokenizer.eos_id
        controls.pop("", None)
    runs: list[str | int | None] = []
    for text, is_frame in pieces:
        for part in split_at_controls(text, controls) if is_frame else [text]:
            if isinstance(part, str) and runs and isinstance(runs[-1], str):
                runs[-1] += part
            else:
                runs.append(part)
    runs, _ = swallow_blanks(runs, tokenizer.strips)
    begins = [not i for i, run in enumerate(runs) if isinstance(run, str)]
    continues = [not is_begin for is_begin in begins] if tokenizer.blank is Blank.AT_START else None
    texts = iter(tokenizer.encode([run for run in runs if isinstance(run, str)], num_threads=1, continues=continues))
    return [i for run in runs for i in ([run] if isinstance(run, int) else next(texts))]
