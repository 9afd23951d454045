"""What a model is asked: rows whose tokens' log-probabilities are taken, and prompts that it answers. Values only."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from yangtuo.data.encoding import EncodingOptions, encode, prompt_ids
from yangtuo.data.examples import Examples
from yangtuo.data.prompt_rows import PromptRow
from yangtuo.data.records import Record, Turn
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from yangtuo.inference.generate import Sampling

_NO_LIMIT = 1 << 20  # tokens


@dataclass(frozen=True)
class LikelihoodTask:
    """Rows that are read.

    Attributes:
        name: "own", "probe", ...
        examples: the rows; their tokens with a loss are looked at.
        keys: of each row, unique in the task.
    """

    name: str
    examples: Examples
    keys: tuple[str, ...]
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256("\n".join(self.keys).encode())
        for i in range(len(self.examples)):
            digest.update(self.examples.row(i)[0].tobytes() + self.examples.row_weights(i).tobytes())
        object.__setattr__(self, "identity", f"{self.name}/likelihood/{digest.hexdigest()[:16]}")


@dataclass(frozen=True)
class AnswerTask:
    """Prompts that are answered.

    Attributes:
        name: "own", "probe", ...
        prompts: what is asked.
        keys: of each prompt, unique in the task.
        max_new_tokens: of an answer, its end token included.
        sampling: how tokens are chosen; None for the likeliest.
    """

    name: str
    prompts: tuple[PromptRow, ...]
    keys: tuple[str, ...]
    max_new_tokens: int
    sampling: "Sampling | None" = None
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        how = str(self.sampling or self.max_new_tokens)
        digest = hashlib.sha256("\n".join([how, *self.keys]).encode())
        for prompt in self.prompts:
            digest.update(np.asarray(prompt.ids, dtype=np.int64).tobytes())
        object.__setattr__(self, "identity", f"{self.name}/answers/{digest.hexdigest()[:16]}")


def answers_of_options(
    tokenizer: Tokenizer, template: Template, questions: Sequence[tuple[str, Sequence[str]]]
) -> Examples:
    """For each question and each of its options, in order, the dialogue in which the option is the answer.

    Raises:
        DataError: the template can render none of them.
    """
    records: list[Record] = []
    for prompt, options in questions:
        for option in options:
            turns = (Turn("user", prompt, trained=False), Turn("assistant", option, trained=True))
            records.append(Record("questions", len(records), turns))
    return encode(records, tokenizer, EncodingOptions(template, max_seq_length=_NO_LIMIT))[0]


def plain_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> Examples:
    """Texts as a base reads them, without a template; all tokens behind the first have a loss, BOS never."""
    ids = [[*_bos(tokenizer), *row] for row in tokenizer.encode(texts)]
    return Examples.of_rows(ids, [np.arange(len(row)) > 0 for row in ids], "texts")


def continuations(tokenizer: Tokenizer, texts: Sequence[tuple[str, Sequence[str]]]) -> Examples:
    """For each text and each of its continuations, in order, both together; the continuation's tokens have a loss.

    Text and continuation are cut into tokens together, as a base reads them; its tokens are those behind the part that
    all tokens of the text alone have in common with it.
    """
    whole = [before + after for before, options in texts for after in options]
    ids = tokenizer.encode(whole)
    alone = tokenizer.encode([before for before, _ in texts])
    rows, supervised = [], []
    each = iter(ids)
    for own, (_, options) in zip(alone, texts, strict=True):
        for _ in options:
            row = next(each)
            num_common = next((i for i, (a, b) in enumerate(zip(own, row, strict=False)) if a != b), len(own))
            num_common = min(num_common, len(row) - 1)  # the continuation may have become part of the last token
            bos = _bos(tokenizer)
            rows.append([*bos, *row])
            supervised.append(np.arange(len(rows[-1])) >= max(1, len(bos) + num_common))
    return Examples.of_rows(rows, supervised, "texts")


def questions(tokenizer: Tokenizer, template: Template, texts: Sequence[str]) -> tuple[PromptRow, ...]:
    """A prompt each, as the template asks it.

    Raises:
        DataError: the template cannot render one.
    """
    return tuple(
        PromptRow(text, tuple(prompt_ids(tokenizer, template, [Turn("user", text, trained=False)]))) for text in texts
    )


def _bos(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.bos_id is None else [tokenizer.bos_id]
