"""Records -> examples: token ids and which of them carry a loss. Owns the length policy.

ids = BOS (where the tokenizer puts one) + tokens(prompt) + tokens(answer) + EOS, prompt and answer tokenised apart as
at inference; answer and EOS are supervised. An example that keeps no supervised token is dropped and counted, so it
can never reach the loss.

Source: scripts/training/build_dataset.py of ymcui/Chinese-LLaMA-Alpaca, v5, whose cut from the right is
`Truncation.RIGHT`; it loses the end token of every long answer, which is why it is not the default.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from yangtuo.arguments import Truncation
from yangtuo.data.records import Record
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError

ENCODER_VERSION = 1  # to be raised with every change of what is encoded: stored rows of before are then not used
IGNORED_LABEL = -100  # the label that transformers and torch leave out of the loss
_BATCH_ROWS = 1024  # rows given to the tokenizer library at once: enough for its threads, little memory
_SENTENCE_ENDS = "。！？!?…\n；;"
_NEAR = 0.75  # a sentence end counts as near when at least this part of the room for the answer stays used


@dataclass(frozen=True)
class Examples:
    """Encoded rows as columns; row i's tokens are `input_ids[offsets[i] : offsets[i + 1]]`.

    Attributes:
        input_ids: int32 [num_tokens].
        supervised: bool [num_tokens], True where the token carries a loss.
        offsets: int64 [num_rows + 1].
        sources: file of each row.
        rows: int64 [num_rows], 0-based row number in its file.
    """

    input_ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    sources: list[str]
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    def num_supervised(self) -> npt.NDArray[np.int64]:
        """Tokens with a loss of each row."""
        sums = np.concatenate([[0], np.cumsum(self.supervised, dtype=np.int64)])
        return np.asarray(sums[self.offsets[1:]] - sums[self.offsets[:-1]])

    def row(self, i: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Ids and supervised mask of one row."""
        span = slice(self.offsets[i], self.offsets[i + 1])
        return self.input_ids[span], self.supervised[span]

    def labels(self, i: int) -> npt.NDArray[np.int32]:
        """Ids with `IGNORED_LABEL` where there is no loss."""
        ids, supervised = self.row(i)
        return np.where(supervised, ids, np.int32(IGNORED_LABEL))

    def where(self, i: int) -> str:
        """File and row of an example, for messages."""
        return f"{self.sources[i]} row {self.rows[i]}"

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> "Examples":
        """The chosen rows, in the order given."""
        chosen = np.asarray(indices, dtype=np.int64)
        lengths = self.lengths()[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Token j of the new columns stands in the old ones as far from its row's begin as in the new.
        tokens = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        sources = [self.sources[i] for i in chosen]
        return Examples(self.input_ids[tokens], self.supervised[tokens], offsets, sources, self.rows[chosen])


@dataclass
class Counts:
    """What happened to the rows; the numbers of the audit.

    `answer_cut` counts answers shortened at a sentence end (they keep their end token), `answer_cut_open` those
    without one near (they keep none).
    """

    num_read: int = 0
    num_kept: int = 0
    prompt_cut: int = 0
    answer_cut: int = 0
    answer_cut_open: int = 0
    right_cut: int = 0
    empty_answers: int = 0
    dropped: list[tuple[str, int, str]] = field(default_factory=list)

    def reasons(self) -> Counter[str]:
        """Dropped rows by reason."""
        return Counter(reason for _, _, reason in self.dropped)


def encode(
    records: Sequence[Record],
    tokenizer: Tokenizer,
    template: Template,
    *,
    max_seq_length: int,
    truncation: Truncation = Truncation.KEEP_ANSWER,
    num_threads: int | None = None,
) -> tuple[Examples, Counts]:
    """Encode all records, in order.

    Args:
        records: single-turn records.
        tokenizer: gives the ids.
        template: the text around a user's words.
        max_seq_length: largest number of tokens of an example.
        truncation: what happens to a longer one.
        num_threads: threads of the tokenizer library; None for all processors.

    Raises:
        DataError: with `Truncation.ERROR`, every row that is too long; with any, when no row is left.
    """
    encoder = _Encoder(tokenizer, template, max_seq_length, truncation, num_threads)
    encoder.run(records)
    if encoder.too_long:
        title = f"rows longer than --max_seq_length {max_seq_length}"
        raise DataError.of_problems(title, encoder.too_long)
    if not encoder.kept:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in encoder.counts.reasons().most_common())
        raise DataError(f"none of the {len(records)} rows can be trained on ({reasons}); raise --max_seq_length")
    encoder.counts.num_read, encoder.counts.num_kept = len(records), len(encoder.kept)
    return encoder.columns(), encoder.counts


class _Encoder:
    """The state of one `encode` call: its settings, the columns so far and what has been counted."""

    def __init__(
        self, tokenizer: Tokenizer, template: Template, limit: int, truncation: Truncation, num_threads: int | None
    ):
        self.tokenizer, self.template, self.limit = tokenizer, template, limit
        self.truncation, self.num_threads = truncation, num_threads
        self.start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        self.counts = Counts()
        self.too_long: list[str] = []
        self.kept: list[Record] = []
        self.ids: list[npt.NDArray[np.int32]] = []
        self.prompt_lengths, self.lengths = array("q"), array("q")

    def run(self, records: Sequence[Record]) -> None:
        quiet = True if len(records) < 20 * _BATCH_ROWS else None  # None: a bar only where a person looks on
        with tqdm(total=len(records), desc="tokenising", unit=" rows", disable=quiet, leave=False) as bar:
            for begin in range(0, len(records), _BATCH_ROWS):
                batch = records[begin : begin + _BATCH_ROWS]
                prompts = self._ids([self.template.prompt(record.turns[0].text) for record in batch])
                answers = self._ids([record.turns[1].text for record in batch])
                pieces: list[list[int]] = []
                for record, prompt, answer in zip(batch, prompts, answers, strict=True):
                    pieces += self._one(record, prompt, answer)
                self.ids.append(np.fromiter(chain.from_iterable(pieces), np.int32, sum(map(len, pieces))))
                bar.update(len(batch))

    def columns(self) -> Examples:
        lengths, prompt_lengths = np.frombuffer(self.lengths, np.int64), np.frombuffer(self.prompt_lengths, np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Examples(
            input_ids=np.concatenate(self.ids),
            supervised=np.repeat(
                np.tile([False, True], len(lengths)), np.stack([prompt_lengths, lengths - prompt_lengths], 1).ravel()
            ),
            offsets=offsets,
            sources=[record.source for record in self.kept],
            rows=np.array([record.row for record in self.kept], dtype=np.int64),
        )

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.encode(texts, num_threads=self.num_threads)

    def _one(self, record: Record, prompt: list[int], answer: list[int]) -> tuple[list[int], ...]:
        """The ids of one row in pieces, none where it is dropped; `prompt` comes without BOS, `answer` without EOS."""
        self.counts.empty_answers += not answer
        answer.append(self.tokenizer.eos_id)
        start = self.start
        if len(start) + len(prompt) + len(answer) > self.limit:
            shortened = self._shorten(record, start + prompt, answer)
            if isinstance(shortened, str):
                self.counts.dropped.append((record.source, record.row, shortened))
                return ()
            (prompt, answer), start = shortened, []
        num_prompt = len(start) + len(prompt)
        self.kept.append(record)
        self.prompt_lengths.append(num_prompt)
        self.lengths.append(num_prompt + len(answer))
        return start, prompt, answer

    def _shorten(self, record: Record, prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]] | str:
        """Prompt and answer that fit, or the reason why the row is dropped."""
        match self.truncation:
            case Truncation.DROP:
                return "longer than max_seq_length"
            case Truncation.ERROR:
                self.too_long.append(f"{record.source} row {record.row}: {len(prompt) + len(answer)} tokens")
                return "longer than max_seq_length"
            case Truncation.RIGHT:
                if len(prompt) >= self.limit:
                    return "no answer token left after the cut"
                self.counts.right_cut += 1
                return prompt, answer[: self.limit - len(prompt)]
        return self._keep_answer(record, prompt, answer)

    def _keep_answer(self, record: Record, prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]] | str:
        """User text gives way first, from its end; the answer only where it alone is too long.

        An answer that has to be cut leaves the user's text half of the room (rounded up), since an answer to nothing
        would teach nothing.
        """
        room = self.limit - len(self._prompt(""))
        if room < 2:
            return "the prompt's frame alone fills max_seq_length"
        if len(answer) > room:
            prompt = self._fit_prompt(record.turns[0].text, prompt, self.limit - room // 2)
            answer = self._fit_answer(record.turns[1].text, answer, self.limit - len(prompt))
        else:
            prompt = self._fit_prompt(record.turns[0].text, prompt, self.limit - len(answer))
        return prompt, answer

    def _prompt(self, user: str) -> list[int]:
        return self.start + self._ids([self.template.prompt(user)])[0]

    def _fit_prompt(self, user: str, prompt: list[int], limit: int) -> list[int]:
        if len(prompt) <= limit:
            return prompt
        self.counts.prompt_cut += 1
        return self._prompt(user[: self._longest(user, lambda text: len(self._prompt(text)) <= limit)])

    def _fit_answer(self, text: str, answer: list[int], room: int) -> list[int]:
        if len(answer) <= room:
            return answer
        num_chars = self._longest(text, lambda part: len(self._ids([part])[0]) + 1 <= room)
        end = max(text.rfind(mark, 0, num_chars) for mark in _SENTENCE_ENDS) + 1
        whole_sentences = [*self._ids([text[:end]])[0], self.tokenizer.eos_id]
        if 0 < end >= _NEAR * num_chars and len(whole_sentences) <= room:
            self.counts.answer_cut += 1
            return whole_sentences
        self.counts.answer_cut_open += 1
        # By characters: a cut by tokens could end inside the bytes of one.
        num_chars = self._longest(text, lambda part: len(self._ids([part])[0]) <= room)
        return self._ids([text[:num_chars]])[0] if num_chars else answer[:room]

    def _longest(self, text: str, fits: Callable[[str], bool]) -> int:
        """The largest number of leading characters that fits, by bisection."""
        low, high = 0, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
        return low
