"""One exchange of a dialogue -> token ids: which texts are tokenised in one piece, and where control ids come from."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from yangtuo.data.backends import Blank
from yangtuo.data.control_tokens import (
    SpecialText,
    Spelled,
    split_as_transformers,
    split_at_controls,
    swallow_blanks,
)
from yangtuo.data.encoding_options import EncodingOptions
from yangtuo.data.records import Turn
from yangtuo.data.templates import Exchange, Piece
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import TokenizerError


class Parts(NamedTuple):
    """An exchange as ids: `prompt` without a loss, then `answer`, which is trained with `weight` or not."""

    prompt: list[int]
    answer: list[int]
    trained: bool
    weight: float


Runs = list[str | int | None]  # texts that are tokenised in one piece and control ids; None between prompt and answer


class ExchangeEncoder:
    """Encodes exchanges with one tokenizer and one set of options."""

    def __init__(self, tokenizer: Tokenizer, options: EncodingOptions, num_threads: int | None = None):
        missing = [token for token in options.template.control_tokens if tokenizer.id_of(token) is None]
        if missing:
            raise TokenizerError(
                "--template {name}: the tokenizer {folder} has no token {missing}; choose another template, or a "
                "tokenizer with it",
                name=options.template.name,
                folder=tokenizer.folder,
                missing=", ".join(missing),
            )
        self.tokenizer, self.options, self.template = tokenizer, options, options.template
        self.limit, self._num_threads = options.max_seq_length, num_threads
        self._frame_controls = {token: tokenizer.id_of(token) for token in options.template.control_tokens}
        own = {token: Spelled(i, False, False) for token, i in self._frame_controls.items() if i is not None}
        self._parsed = {**tokenizer.spelled, **own} if options.parse_special_tokens else None
        self._is_plain = not self._frame_controls and self._parsed is None  # as most data is
        controls = {text: i for text, i in tokenizer.controls.items() if text not in tokenizer.words}
        self._special = SpecialText(controls)
        self._split_frames: dict[str, list[str | int]] = {}

    def _runs_of(self, exchanges: Iterable[Exchange]) -> Iterator[Runs]:
        """The runs of the exchanges of one example."""
        is_behind_one = False
        for exchange in exchanges:
            runs = self._runs(exchange)
            if self.tokenizer.strips:
                runs, is_behind_one = swallow_blanks(runs, self.tokenizer.strips, is_behind_one=is_behind_one)
            yield runs

    def _runs(self, exchange: Exchange) -> Runs:
        before, user, after, empty_thought, lead, answer, end, _, _ = exchange
        if self._is_plain and end is None:  # no lead either: frames have none
            return ["".join([piece[0] for piece in before]) + user + after, None, answer, self.tokenizer.eos_id]
        asked = self._joined((*before, Piece(user, is_frame=False), Piece(after + empty_thought, is_frame=True)))
        if end is None:
            return [*asked, None, *self._joined((*lead, Piece(answer, is_frame=False))), self.tokenizer.eos_id]
        return [*asked, None, *self._joined((*lead, Piece(answer, is_frame=False), Piece(end, is_frame=True)))]

    def _joined(self, pieces: Iterable[Piece]) -> list[str | int]:
        """What is tokenised in one piece: text between control tokens, whoever wrote it."""
        if self._parsed is not None:
            return split_as_transformers("".join([piece.text for piece in pieces]), self._parsed)
        runs: list[str | int] = []
        for text, is_frame in pieces:
            for part in self._split_frame(text) if is_frame else (text,):
                if type(part) is str and runs and type(runs[-1]) is str:
                    runs[-1] += part
                else:
                    runs.append(part)
        return runs

    def _split_frame(self, text: str) -> list[str | int]:
        if text not in self._split_frames:
            self._split_frames[text] = split_at_controls(text, self._frame_controls)
        return self._split_frames[text]

    def _continues(self, runs: Runs, *, is_first: bool) -> list[bool]:
        """Which texts get no blank of the library's before them: those behind a text, or behind anything at all.

        As transformers encodes the dialogue in one piece, where a blank comes at its begin or behind a control token.
        """
        flags: list[bool] = []
        before: str | int | None = None if is_first else 0
        for run in runs:
            if type(run) is str:
                behind_anything = self.tokenizer.blank is Blank.AT_START and before is not None
                flags.append(type(before) is str or behind_anything)
            # None divides prompt and answer; an answer that is cut by itself stands behind a prompt that is not here.
            before = ("" if before is None else before) if run is None else run
        return flags

    def _encoded(self, exchanges: Sequence[Exchange]) -> list[Parts]:
        """The exchanges of one example."""
        parts = []
        for i, (exchange, runs) in enumerate(zip(exchanges, self._runs_of(exchanges), strict=True)):
            continues = self._continues(runs, is_first=i == 0) if self.tokenizer.blank is not Blank.NEVER else None
            texts = [run for run in runs if type(run) is str]
            ids = iter(self.tokenizer.encode(texts, num_threads=1, continues=continues))
            parts.append(parts_of(exchange, runs, ids))
        return parts

    def _start(self, first: Parts) -> list[int]:
        """BOS, where the tokenizer puts one, which is not the template's matter."""
        bos = self.tokenizer.bos_id
        return [] if bos is None or self.template.writes_bos or first.prompt[:1] == [bos] else [bos]

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> list[int]:
        """Ids of what the model reads before it answers the last turn."""
        parts = self._encoded(self.template.prompt_of(turns, tools))
        before = [id_ for part in parts[:-1] for id_ in (*part.prompt, *part.answer)]
        return self._start(parts[0]) + before + parts[-1].prompt


def parts_of(exchange: Exchange, runs: Runs, ids: Iterator[list[int]]) -> Parts:
    """The runs of an exchange with the ids of its texts, in their order."""
    prompt: list[int] = []
    answer: list[int] = []
    side = prompt
    for run in runs:
        if run is None:
            side = answer
        elif type(run) is int:
            side.append(run)
        else:
            side += next(ids)
    return Parts(prompt, answer, exchange.trained, exchange.weight)
