"""A dialogue with a model: what was said, what of it the model is shown, and the row for training that it makes."""

import errno
import json
import os
from collections.abc import Callable, Sequence
from collections.abc import Generator as Pieces
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from yangtuo import output
from yangtuo.data.records import Turn
from yangtuo.data.templates import Template
from yangtuo.errors import DataError, UsageError
from yangtuo.i18n import Message
from yangtuo.inference.generate import Answer, Generator

LEFT_OUT = Message("the dialogue is longer than the model has room for: its oldest part is no longer shown to it")


class Exchange(NamedTuple):
    """A question and its answer; `is_whole` where the model itself came to an end."""

    question: str
    answer: str
    is_whole: bool

    @property
    def is_answered(self) -> bool:
        """Whether anything was said at all before the answer was stopped."""
        return self.is_whole or bool(self.answer)


class Dialogue:
    """What was said so far.

    Attributes:
        system: system prompt; None for the template's own.
        said: all of it, oldest first.
        num_left_out: how many of the oldest the model is no longer shown.
    """

    def __init__(self, system: str | None = None):
        self.system = system
        self.exchanges: list[Exchange] = []
        self.num_left_out = 0

    def clear(self) -> None:
        """Begin anew, with the same system prompt."""
        self.exchanges.clear()
        self.num_left_out = 0

    def undo(self) -> Exchange | None:
        """Take the last question and its answer back; None where there is none."""
        last = self.exchanges.pop() if self.exchanges else None
        self.num_left_out = min(self.num_left_out, len(self.exchanges))
        return last

    def turns(self, question: str) -> list[Turn]:
        """What the model is shown, the question last."""
        turns = [] if self.system is None else [Turn("system", self.system, trained=False)]
        for one in filter(attrgetter("is_answered"), self.exchanges[self.num_left_out :]):
            turns += [Turn("user", one.question, trained=False), Turn("assistant", one.answer, trained=False)]
        return [*turns, Turn("user", question, trained=False)]

    def fit(self, question: str, prompt_of: Callable[[Sequence[Turn]], list[int]], room: int | None) -> list[int]:
        """The prompt; where it has more than `room` tokens, the oldest questions and answers are left out.

        Raises:
            DataError: the question alone has more.
        """
        prompt = prompt_of(self.turns(question))
        while room is not None and len(prompt) > room:
            if self.num_left_out == len(self.exchanges):
                raise DataError(
                    "the question makes a prompt of {num_prompt:,} tokens; beside an answer, the model has room for "
                    "{room:,} (--max_new_tokens is the answer's part)",
                    num_prompt=len(prompt),
                    room=room,
                )
            self.num_left_out += 1
            prompt = prompt_of(self.turns(question))
        return prompt

    def row(self) -> dict[str, Any]:
        """The dialogue as a row for training; an answer that was cut is context, since it would teach to break off.

        Raises:
            UsageError: no answer could be trained.
        """
        if not any(one.is_whole for one in self.exchanges):
            raise UsageError("there is no whole answer yet that could be trained on")
        messages: list[dict[str, Any]] = [] if self.system is None else [{"role": "system", "content": self.system}]
        for one in filter(attrgetter("is_answered"), self.exchanges):
            messages.append({"role": "user", "content": one.question})
            mark = {} if one.is_whole else {"train": False}
            messages.append({"role": "assistant", "content": one.answer, **mark})
        return {"messages": messages}


def save_row(path: Path, row: dict[str, Any]) -> int:
    """Add a row to a file of rows, which may be new; returns how many it has then.

    Raises:
        DataError: it is no such file.
        WriteError: it cannot be written.
    """
    if path.suffix not in (".json", ".jsonl"):
        raise DataError("{path}: give a name that ends in .json or .jsonl", path=path)
    if not path.absolute().parent.is_dir():
        raise DataError(
            "{path}: {strerror}; make the folder {parent} first",
            path=path,
            strerror=os.strerror(errno.ENOENT),
            parent=path.parent,
        )
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        rows = json.loads(text) if text and path.suffix == ".json" else []
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError("{path}: cannot be added to, since it cannot be read: {told}", path=path, told=told) from error
    if not isinstance(rows, list):
        raise DataError("{path}: it holds no list of rows; give another name", path=path)
    if path.suffix == ".jsonl":
        # By line feeds alone: JSON leaves other separators (U+2028, U+0085) inside a row as they are.
        rows = [*filter(None, text.split("\n")), json.dumps(row, ensure_ascii=False)]
        text = "\n".join(rows)
    else:
        rows = [*rows, row]
        text = json.dumps(rows, ensure_ascii=False, indent=2)
    with output.whole_file(path) as file:
        file.write(text + "\n")
    return len(rows)


class ChatSession:
    """A model to talk to, with the dialogue that was had with it.

    Attributes:
        name: "tuned", "base", or "model" where nothing was tuned.
        dialogue: had with it.
    """

    def __init__(self, name: str, generator: Generator, template: Template, room: int | None, system: str | None):
        self.name, self.dialogue = name, Dialogue()
        self._generator, self._template, self._room = generator, template, room
        self.take_system(system)

    def take_system(self, system: str | None) -> None:
        """Another system prompt, "" for none, None for the template's own; a template may know none at all."""
        is_refused = system == "" and not self._template.takes_empty_system()
        self.dialogue.system = None if is_refused else system

    def ask(self, question: str, tell: Callable[[str], None], *, keeps_interrupted: bool = False) -> Answer:
        """Ask; the answer becomes part of the dialogue.

        Raises:
            DataError: the template cannot render it, or it is too long.
            RunFailure: see `Generator.answer`.
        """
        prompt = self.dialogue.fit(question, self._generator.prompt, self._room)
        return self._kept(question, self._generator.answer(prompt, tell, keeps_interrupted=keeps_interrupted))

    def stream(self, question: str) -> Pieces[str, None, Answer]:
        """The same, piece by piece; what the generator returns is the answer. See `Generator.pieces`.

        Raises:
            DataError: the template cannot render it, or it is too long.
            RunFailure: see `Generator.answer`.
        """
        prompt = self.dialogue.fit(question, self._generator.prompt, self._room)
        return self._kept(question, (yield from self._generator.pieces(prompt)))

    def _kept(self, question: str, answer: Answer) -> Answer:
        self.dialogue.exchanges.append(Exchange(question, answer.text, answer.is_whole))
        return answer

    def start_over(self) -> None:
        """Reset the dialogue and the random generator."""
        self.dialogue.clear()
        self._generator.reseed()
