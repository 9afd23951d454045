"""Records -> examples: token ids and which of them carry a loss.

ids = BOS (where the tokenizer puts one) + tokens(prompt) + tokens(answer) + end, and so on for further turns. Prompt
and answer are tokenised apart, as at inference; answer and end are supervised. What people wrote is text: control ids
come from the template's frames alone. An example that keeps no supervised token is dropped and counted, so it can never
reach the loss.

Source: scripts/training/build_dataset.py of ymcui/Chinese-LLaMA-Alpaca, v5.
"""

from collections.abc import Sequence
from itertools import chain
from operator import mul

import numpy as np

from yangtuo.config.choices import History, Truncation
from yangtuo.data.backends import Blank
from yangtuo.data.encoding_options import (
    NO_ANSWER_LEFT,
    NO_CALL_CUT,
    NO_ROOM,
    NO_TURN_LEFT,
    TOO_LONG,
    EncodingOptions,
    check_kept,
    count_reasons,
)
from yangtuo.data.examples import Columns, Examples, RowOutcome, examples_of
from yangtuo.data.exchange_encoder import ExchangeEncoder, Parts, Runs, parts_of
from yangtuo.data.readers.reader import Dropped
from yangtuo.data.records import Record, Turn
from yangtuo.data.templates import Exchange, Rendered, Template, TemplateFault
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.data.truncation import cut_answer, longest

__all__ = [
    "ENCODER_VERSION",
    "Columns",
    "Encoder",
    "EncodingOptions",
    "check_kept",
    "count_reasons",
    "encode",
    "end_id",
    "examples_of",
    "lacks_bos",
    "prompt_ids",
]

ENCODER_VERSION = 12  # to be raised with every change of what is encoded: stored rows of before are then not used
_BATCH_ROWS = 1024  # rows given to the tokenizer library at once: enough for its threads, little memory
# Plain numbers: a million rows pass.
_SPECIAL_TEXT, _EMPTY_ANSWER, _RIGHT_CUT = (
    int(RowOutcome.SPECIAL_TEXT),
    int(RowOutcome.EMPTY_ANSWER),
    int(RowOutcome.RIGHT_CUT),
)
_NO_SYSTEM, _AS_SERVED, _EMPTY_THOUGHT, _ANSWERS_LOST, _UNUSED_KWARGS = (
    int(RowOutcome.NO_SYSTEM),
    int(RowOutcome.AS_SERVED),
    int(RowOutcome.EMPTY_THOUGHT),
    int(RowOutcome.ANSWERS_LOST),
    int(RowOutcome.UNUSED_KWARGS),
)
_LEAST_WEIGHT = float(np.finfo(np.float32).tiny)  # what is below is no weight in the columns' type


def encode(
    records: Sequence[Record], tokenizer: Tokenizer, options: EncodingOptions, *, num_threads: int | None = None
) -> tuple[Examples, list[Dropped]]:
    """Encode records in memory, in order.

    Raises:
        DataError: with `Truncation.ERROR`, every row that is too long; with any, when no row is left.
        TokenizerError: the template needs a token that is not there.
    """
    encoder = Encoder(tokenizer, options, num_threads)
    columns = encoder.encode(records)
    check_kept(len(columns.rows), len(records), columns.dropped, count_reasons(columns.dropped), options)
    paths = tuple(dict.fromkeys(record.source for record in records))
    return examples_of(columns.arrays(paths), paths), columns.dropped


def end_id(tokenizer: Tokenizer, template: Template) -> int:
    """The id that ends an answer."""
    found = tokenizer.id_of(template.end) if template.end else None
    return tokenizer.eos_id if found is None else found


def lacks_bos(tokenizer: Tokenizer, template: Template) -> bool:
    """Whether prompts begin without the BOS that the tokenizer's own rule would put before them."""
    if tokenizer.bos_id is None or not template.writes_bos:
        return False
    try:
        return prompt_ids(tokenizer, template, [Turn("user", "?", trained=False)])[:1] != [tokenizer.bos_id]
    except TemplateFault:  # it wants a system prompt, say
        return False


def prompt_ids(tokenizer: Tokenizer, template: Template, turns: Sequence[Turn]) -> list[int]:
    """What the model reads before it answers the last of the turns, which is the user's."""
    return Encoder(tokenizer, EncodingOptions(template, max_seq_length=0), num_threads=1).prompt(turns)


class Encoder(ExchangeEncoder):
    """Encodes records with one tokenizer and one set of options."""

    def encode(self, records: Sequence[Record]) -> Columns:
        """All records, in order."""
        columns = Columns()
        for begin in range(0, len(records), _BATCH_ROWS):
            self._batch(records[begin : begin + _BATCH_ROWS], columns)
        return columns

    def _batch(self, records: Sequence[Record], columns: Columns) -> None:
        rendered = [self._rendered(record) for record in records]
        parted: list[Runs] = []
        firsts: set[int] = set()  # of `parted`, which begin an example
        for examples in rendered:
            if not isinstance(examples, TemplateFault):
                for example in examples:
                    firsts.add(len(parted))
                    parted += self._runs_of(example.exchanges)
        texts = [run for runs in parted for run in runs if type(run) is str]
        continues = None
        if self.tokenizer.blank is not Blank.NEVER:
            continues = [flag for i, runs in enumerate(parted) for flag in self._continues(runs, is_first=i in firsts)]
        ids = iter(self.tokenizer.encode(texts, num_threads=self._num_threads, continues=continues))
        next_runs = iter(parted)
        pieces: list[list[int]] = []
        for record, examples in zip(records, rendered, strict=True):
            if isinstance(examples, TemplateFault):
                columns.dropped.append(Dropped(record.source, record.row, None, str(examples)))
                continue
            outcome = self._outcome(record, columns) | (_AS_SERVED if len(examples) > 1 else 0)
            num_kept, num_dropped = len(columns.outcomes), len(columns.dropped)
            for example in examples:
                parts = [parts_of(exchange, next(next_runs), ids) for exchange in example.exchanges]
                if self._takes_all or example is examples[-1]:
                    pieces += self._one(record, example, parts, columns, outcome)
            if len(columns.dropped) > num_dropped:
                self._settle(columns, num_kept, num_dropped)
        columns.input_ids.append(np.fromiter(chain.from_iterable(pieces), np.int32, sum(map(len, pieces))))

    def _settle(self, columns: Columns, num_kept: int, num_dropped: int) -> None:
        """A row of which some examples were dropped: told once where none is left, else it has lost answers."""
        if len(columns.outcomes) == num_kept or self.options.truncation is Truncation.ERROR:
            del columns.dropped[num_dropped + 1 :]
            return
        del columns.dropped[num_dropped:]
        for i in range(num_kept, len(columns.outcomes)):
            columns.outcomes[i] |= _ANSWERS_LOST

    @property
    def _takes_all(self) -> bool:
        return self.options.history is History.AS_SERVED

    def _rendered(self, record: Record) -> list[Rendered] | TemplateFault:
        """The examples of a row, or why there are none."""
        turns: Sequence[Turn] = record.turns
        # A system prompt that asks for none is left out where the template would refuse it.
        if _asks_for_none(turns) and not self.template.takes_empty_system():
            turns = turns[1:]
        try:
            return self.template.render(turns, record.tools, record.template_kwargs)
        except TemplateFault as fault:
            return fault

    def _outcome(self, record: Record, columns: Columns) -> int:
        """What is to be told of the row as it stands in its file."""
        outcome = _SPECIAL_TEXT if self._special.count_in(record, columns.special) else 0
        if record.template_kwargs and not self.template.kwargs_used.issuperset(record.template_kwargs):
            outcome |= _UNUSED_KWARGS
        return outcome | _NO_SYSTEM if _asks_for_none(record.turns) else outcome

    def _one(
        self, record: Record, example: Rendered, parts: list[Parts], columns: Columns, outcome: int
    ) -> list[list[int]]:
        """The ids of one example in pieces, none where it is dropped."""
        start = self._start(parts[0])
        num_tokens = len(start)
        for exchange, part in zip(example.exchanges, parts, strict=True):
            num_tokens += len(part.prompt) + len(part.answer)
            if exchange.empty_thought and exchange.trained:
                outcome |= _EMPTY_THOUGHT
            if not exchange.answer and not exchange.lead and exchange.trained:
                outcome |= _EMPTY_ANSWER
        if num_tokens > self.limit:
            fitted = self._fit(record, example, parts, num_tokens)
            if isinstance(fitted, str):
                columns.dropped.append(Dropped(record.source, record.row, None, fitted))
                return []
            parts, cut = fitted
            outcome |= int(cut)
            start = self._start(parts[0])
        pieces = [start]
        weights: list[float] = []
        for prompt, answer, trained, weight in parts:
            pieces += (prompt, answer)
            weights += (0.0, weight if trained and weight >= _LEAST_WEIGHT else 0.0)
        if outcome & _RIGHT_CUT:
            pieces = _first(pieces, self.limit)
        lengths = [len(piece) for piece in pieces[1:]]
        if not any(map(mul, lengths, weights)):
            columns.dropped.append(Dropped(record.source, record.row, None, NO_ANSWER_LEFT))
            return []
        lengths[0] += len(start)
        columns.runs.extend(lengths)
        columns.run_weights.extend(weights)
        columns.num_runs.append(len(lengths))
        columns.sources.append(record.source)
        columns.rows.append(record.row)
        columns.outcomes.append(outcome)
        return pieces

    def _fit(
        self, record: Record, example: Rendered, parts: list[Parts], num_tokens: int
    ) -> tuple[list[Parts], RowOutcome] | str:
        """Parts of an example that is too long, and what was done; or the reason why it is dropped."""
        match self.options.truncation:
            case Truncation.DROP:
                return TOO_LONG
            case Truncation.ERROR:
                return f"{TOO_LONG}: {num_tokens} tokens"
            case Truncation.RIGHT:
                return parts, RowOutcome.RIGHT_CUT
        questions = [i for i, turn in enumerate(example.turns) if turn.role == "user"]
        outcome = RowOutcome.WHOLE
        if len(questions) > 1:
            try:
                example, parts, num_tokens = self._without_oldest(record, example, questions)
            except TemplateFault as fault:
                return str(fault)
            outcome = RowOutcome.TURNS_LOST
        if not any(part.trained for part in parts):
            return NO_TURN_LEFT
        if num_tokens <= self.limit:
            return parts, outcome
        fitted = self._keep_answer(example.exchanges[0], parts[0]) if len(parts) == 1 else NO_CALL_CUT
        return fitted if isinstance(fitted, str) else ([fitted[0]], outcome | fitted[1])

    def _without_oldest(
        self, record: Record, example: Rendered, questions: Sequence[int]
    ) -> tuple[Rendered, list[Parts], int]:
        """The example without its oldest questions and their answers: the fewest, so that it fits, or all but one."""
        kept, tools, more = example.turns[: questions[0]], record.tools, record.template_kwargs

        def without(num: int) -> tuple[Rendered, list[Parts], int]:
            examples = self.template.render((*kept, *example.turns[questions[num] :]), tools, more)
            if not examples:  # no answer is left that carries a loss
                return example, [], 0
            left = examples[-1]
            parts = self._encoded(left.exchanges)
            return left, parts, len(self._start(parts[0])) + _size(parts)

        low, high = 1, len(questions) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if without(middle)[2] <= self.limit else (middle + 1, high)
        return without(low)

    def _keep_answer(self, exchange: Exchange, part: Parts) -> tuple[Parts, RowOutcome] | str:
        """User text gives way first, from its end; the answer only where it alone is too long.

        An answer that has to be cut leaves the user's text half of the room (rounded up), since an answer to nothing
        would teach nothing.
        """
        room = self.limit - len(self._prompt(exchange._replace(user="")))
        if room < 2:
            return NO_ROOM
        outcome, answer = RowOutcome.WHOLE, part.answer
        limit = self.limit - (room // 2 if len(answer) > room else len(answer))
        prompt = self._start(part) + part.prompt
        if len(prompt) > limit:
            outcome |= RowOutcome.PROMPT_CUT
            num_chars = longest(exchange.user, lambda text: len(self._prompt(exchange._replace(user=text))) <= limit)
            exchange = exchange._replace(user=exchange.user[:num_chars])
            prompt = self._prompt(exchange)
        if len(answer) > self.limit - len(prompt):
            if not exchange.answer:  # all that is said is the template's writing: calls of tools
                return NO_CALL_CUT
            alone = exchange._replace(before=(), user="")  # what stands right before the answer decides its blank
            answer, has_end = cut_answer(
                exchange.answer,
                lambda text: self._encoded([alone._replace(answer=text)])[0].answer,
                lambda text: self._encoded([alone._replace(answer=text, end="")])[0].answer,
                self.limit - len(prompt),
            )
            outcome |= RowOutcome.ANSWER_CUT if has_end else RowOutcome.ANSWER_CUT_OPEN
        return part._replace(prompt=prompt[len(self._start(part)) :], answer=answer), outcome

    def _prompt(self, exchange: Exchange) -> list[int]:
        (part,) = self._encoded([exchange._replace(lead=(), answer="")])
        return self._start(part) + part.prompt


def _asks_for_none(turns: Sequence[Turn]) -> bool:
    return turns[0].role == "system" and not turns[0].text


def _size(parts: Sequence[Parts]) -> int:
    return sum(len(part.prompt) + len(part.answer) for part in parts)


def _first(pieces: list[list[int]], limit: int) -> list[list[int]]:
    """The pieces cut from the right, their number unchanged."""
    kept, room = [], limit
    for piece in pieces:
        kept.append(piece[:room])
        room -= len(kept[-1])
    return kept
