"""Dialogues as a server renders them: each answer behind the prompt that it would be asked with.

For an answer, what comes before it is rendered with `add_generation_prompt`, as a server does, and once more with the
answer. What the second text adds is what the model is taught, up to the control token that ends it. Answers stay in one
example as long as the prompt of the next one begins with what was taught; where a template renders the history
otherwise (thoughts left out, blocks moved), the next answer begins an example of its own.

Nothing is taken on trust: texts, thoughts, tools and calls have to be found in what was rendered, or the row is refused
(`data.traces`).
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from yangtuo.data.hidden_controls import HiddenControls
from yangtuo.data.jinja_source import Render
from yangtuo.data.records import Turn
from yangtuo.data.served_messages import PROBE, PROBE_TOOL, SPELLINGS, Spelling, has_calls, messages_of
from yangtuo.data.templates import Exchange, Rendered, TemplateFault
from yangtuo.data.thinking import (
    continued,
    empty_block,
    opened_by,
    thought_beside,
    thought_of,
    with_thought,
    without_closed_block,
)
from yangtuo.data.traces import Traced
from yangtuo.i18n import Message

_MARK = "\ufdd0\ufdd1"  # noncharacters of Unicode, which stand so in no text whose control tokens are hidden


class _NoThoughtAsked(TemplateFault):
    """The prompt of an answer with a thought closes the block for it."""


class _Answer(NamedTuple):
    """An answer behind its prompt, as rendered: `prompt + empty_thought + said + end` is what the server would have."""

    turn: Turn
    prompt: str
    empty_thought: str
    said: str
    end: str

    @property
    def whole(self) -> str:
        return self.prompt + self.empty_thought + self.said + self.end


class _Asked(NamedTuple):
    """What is rendered: a dialogue, tools and settings whose control tokens are hidden."""

    turns: Sequence[Turn]
    tools: Sequence[Any]
    more: Mapping[str, Any]


_Taken = TypeVar("_Taken")


class AsServed:
    """Renders dialogues with one chat template.

    Attributes:
        tail: frame that ends an answer: control tokens, perhaps with blanks before them.
        end: the last of them.
    """

    def __init__(self, render: Render, controls: Sequence[str], eos: str, thought_key: str, switches: Iterable[str]):
        """A template.

        Args:
            render: it.
            controls: control tokens of the tokenizer.
            eos: the one that ends a text; "" for none.
            thought_key: under which messages have a thought.
            switches: names that ask it for thoughts, and that nobody has set.

        Raises:
            TemplateFault: it renders not even a question and an answer.
        """
        self._render, self._hidden = render, HiddenControls(controls)
        control = "|".join(sorted(map(re.escape, controls), key=len, reverse=True))
        self._control = re.compile(control)
        self._ends = re.compile(rf"(?:\s*(?:{control}))+(?=\s*\Z)")
        self._eos, self._thought_key, self._switches = eos, thought_key, frozenset(switches)
        self._next_tokens: dict[str, str] = {}
        self.tail = self._usual_tail()
        self.end = self._control.findall(self.tail)[-1]
        self._splits_thoughts = self._puts_block_before_thought()

    def render(self, turns: Sequence[Turn], tools: Sequence[Any], more: Mapping[str, Any]) -> list[Rendered]:
        """The examples of a dialogue, in the order of their answers.

        A thought is asked for where the template has a switch for it that is off by itself.
        """
        asked = self._asked(turns, tools, more)
        try:
            answers = self._first_taken(asked, functools.partial(self._answers, asked))
        except _NoThoughtAsked:
            switches = dict.fromkeys(self._switches, True)
            if not switches or self._switches & more.keys():
                raise
            asked = asked._replace(more={**asked.more, **switches})
            answers = self._first_taken(asked, functools.partial(self._answers, asked))
        places = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.trained]
        examples: list[list[int]] = []
        for k in range(len(answers)):
            if k and answers[k].prompt.startswith(answers[k - 1].whole):
                examples[-1].append(k)
            else:
                examples.append([k])
        return [self._example(turns, asked, [places[k] for k in of], [answers[k] for k in of]) for of in examples]

    def prompt_of(self, turns: Sequence[Turn], tools: Sequence[Any]) -> list[Exchange]:
        """What a server shows the model before it answers the last turn."""
        asked = self._asked(turns, tools, {})

        def rendered(spelling: Spelling) -> str:
            text = self._rendered(asked, asked.turns, spelling, is_prompt=True)
            traced = Traced(asked.turns, asked.tools)
            of_traces = asked._replace(tools=traced.tools)
            traced.check_prompt(
                self._rendered(of_traces, traced.turns, spelling, is_prompt=True), len(asked.turns), asked.tools
            )
            return text

        answer = _Answer(Turn("assistant", "", trained=False), self._first_taken(asked, rendered), "", "", self.end)
        return [self._exchange(answer, 0, asked.turns)]

    def _asked(self, turns: Sequence[Turn], tools: Sequence[Any], more: Mapping[str, Any]) -> _Asked:
        hidden = self._hidden
        return _Asked([hidden.hide_turn(turn) for turn in turns], hidden.hide(tools), hidden.hide(more))

    def _first_taken(self, asked: _Asked, attempt: Callable[[Spelling], _Taken]) -> _Taken:
        """What an attempt gives in the first spelling that the template takes."""
        if not asked.tools and not any(turn.role == "tool" or has_calls(turn) for turn in asked.turns):
            return attempt(SPELLINGS[0])
        first_fault = None
        for spelling in self._spellings:
            try:
                return attempt(spelling)
            except TemplateFault as fault:
                first_fault = first_fault or fault
        assert first_fault
        raise first_fault

    @functools.cached_property
    def _spellings(self) -> list[Spelling]:
        """All spellings, that of the template first: found by a dialogue of ours, so that rows decide nothing."""
        asked = _Asked(PROBE, [PROBE_TOOL], {})
        for spelling in SPELLINGS:
            try:
                self._answers(asked, spelling)
            except TemplateFault:
                continue
            return [spelling, *(one for one in SPELLINGS if one != spelling)]
        return SPELLINGS

    def _rendered(self, asked: _Asked, turns: Sequence[Turn], spelling: Spelling, *, is_prompt: bool = False) -> str:
        messages = messages_of(turns, spelling, self._thought_key, splits_thoughts=self._splits_thoughts)
        return self._render(messages, asked.tools, asked.more, add_generation_prompt=is_prompt)

    def _answers(self, asked: _Asked, spelling: Spelling) -> list[_Answer]:
        traced = Traced(asked.turns, asked.tools)
        places = [i for i, turn in enumerate(asked.turns) if turn.role == "assistant" and turn.trained]
        return [self._answer(asked, traced, i, spelling) for i in places]

    def _answer(self, asked: _Asked, traced: Traced, place: int, spelling: Spelling) -> _Answer:
        turn, before, of_traces = asked.turns[place], asked.turns[:place], asked._replace(tools=traced.tools)
        prompt = self._rendered(asked, before, spelling, is_prompt=True)
        shown = self._rendered(of_traces, traced.turns[:place], spelling, is_prompt=True)
        traced.check_prompt(shown, place, asked.tools)
        for way in (_as_it_is, _in_text) if thought_beside(turn) else (_as_it_is,):
            whole = self._rendered(asked, [*before, way(turn)], spelling)
            shown = self._rendered(of_traces, [*traced.turns[:place], way(traced.turns[place])], spelling)
            traced.check_answer(shown, place)
            if whole.startswith(prompt) and traced.shows_thought(shown, place):
                said = whole[len(prompt) :]
                break
        else:
            more = {key: one for key, one in (turn.more or {}).items() if key != "reasoning_content"}
            said = self._by_mark(
                prompt, turn, self._rendered(asked, [*before, turn._replace(text=_MARK, more=more)], spelling)
            )
        block = "" if thought_of(turn) else empty_block(said, is_open=bool(opened_by(prompt)))
        said, end = self._divided(said[len(block) :], turn)
        return _Answer(turn, prompt, block, said, end)

    def _by_mark(self, prompt: str, turn: Turn, marked: str) -> str:
        """What is taught where the template leaves the thought out, or opens a block in the prompt alone.

        Args:
            prompt: of the answer.
            turn: the answer.
            marked: the dialogue up to it, with a mark in place of its text, and without a thought.
        """
        head, mark, tail = marked.partition(_MARK)
        if not mark:
            raise TemplateFault(
                Message("the tokenizer's chat template has no place for a text or thought beside a tool call")
            )
        thought = thought_of(turn)
        if thought and without_closed_block(prompt) != prompt:
            raise _NoThoughtAsked(
                Message(
                    "the answer has a thought, and the prompt says that there is none; leave the thought out, or ask "
                    "for it with chat_template_kwargs"
                )
            )
        before = without_closed_block(head)
        opened = opened_by(prompt)
        full = with_thought(turn, opened or "<think>\n")
        if prompt.startswith(before):
            if prompt == before or (not thought and without_closed_block(prompt) == before):
                return full + tail
            if prompt == before + opened:
                return continued(full, opened, has_thought=bool(thought)) + tail
        elif head.startswith(prompt):
            return (before[len(prompt) :] if thought else head[len(prompt) :]) + full + tail
        raise TemplateFault(
            Message(
                "the tokenizer's chat template renders the whole dialogue differently from the prompts of its single "
                "answers"
            )
        )

    def _divided(self, said: str, turn: Turn) -> tuple[str, str]:
        """What is said, and the control token that ends it."""
        before, tail, behind = said.rpartition(self.tail)
        if tail and not self._control.sub("", without_closed_block(behind)).strip():
            return before, tail
        found = self._ends.search(said)
        if found is None:
            return said, self._next_token("tool" if has_calls(turn) else "user")
        *_, last = self._control.finditer(said)
        return said[: last.start()], last.group()

    def _usual_tail(self) -> str:
        """What stands behind an answer in a dialogue and at its end alike, up to its last control token."""
        asked = {"role": "user", "content": "q"}
        said = {"role": "assistant", "content": _MARK}
        _, mark, at_end = self._render([asked, said]).partition(_MARK)
        if not mark:
            raise TemplateFault(Message("the tokenizer's chat template leaves out an answer"))
        try:
            within = self._render([asked, said, asked]).partition(_MARK)[2]
        except TemplateFault:  # one question alone
            within = at_end
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(at_end, within, strict=False))
        both = "".join(letter for letter, _ in pairs)
        shared = list(self._control.finditer(both))
        if shared:
            return both[: shared[-1].end()]
        first = self._control.search(at_end)
        return at_end[: first.end()] if first else self._next_token("user")

    def _puts_block_before_thought(self) -> bool:
        """Whether a thought in an answer's text gets an empty block before it, so that it has to stand beside."""
        asked = {"role": "user", "content": "q"}
        said = {"role": "assistant", "content": f"<think>\n{_MARK}\n</think>\n\na"}
        prompt, whole = self._render([asked], add_generation_prompt=True), self._render([asked, said])
        is_open = bool(opened_by(prompt))
        return _MARK in whole and bool(empty_block(whole.removeprefix(prompt), is_open=is_open))

    def _next_token(self, role: str) -> str:
        """Where nothing else ends an answer: the control token that begins the next turn, else the end of a text."""
        if role not in self._next_tokens:
            turns = [("user", "q"), ("assistant", _MARK), (role, "q")]
            text = self._render([{"role": one, "content": said} for one, said in turns])
            found = self._control.match(text.partition(_MARK)[2].lstrip())
            if found is None and not self._eos:
                raise TemplateFault(Message("the tokenizer's chat template puts no control token behind an answer"))
            self._next_tokens[role] = found.group() if found else self._eos
        return self._next_tokens[role]

    def _example(
        self, turns: Sequence[Turn], asked: _Asked, places: Sequence[int], answers: Sequence[_Answer]
    ) -> Rendered:
        shown = [
            turn if turn.role != "assistant" or i in places else turn._replace(trained=False)
            for i, turn in enumerate(turns[: places[-1] + 1])
        ]
        exchanges, begin = [], 0
        for place, answer in zip(places, answers, strict=True):
            exchanges.append(self._exchange(answer, begin, asked.turns[:place]))
            begin = len(answer.whole)
        return Rendered(tuple(shown), exchanges)

    def _exchange(self, answer: _Answer, begin: int, turns: Sequence[Turn]) -> Exchange:
        prompt, hidden = answer.prompt[begin:], self._hidden
        last = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
        words = last.strip()
        before, _, after = prompt.partition(words) if words else (prompt, "", "")
        if prompt.count(words) != 1 or hidden.shown(after) != after:  # then nothing may be shortened
            before, words, after = prompt, "", ""
        is_text = not has_calls(answer.turn) and not hidden.has_control(answer.said)
        return Exchange(
            before=hidden.pieces(before),
            user=hidden.shown(words),
            after=after,
            empty_thought=answer.empty_thought,
            lead=() if is_text else hidden.pieces(answer.said),
            answer=hidden.shown(answer.said) if is_text else "",
            end=answer.end,
            trained=answer.turn.trained,
            weight=answer.turn.weight,
        )


def _as_it_is(turn: Turn) -> Turn:
    return turn


def _in_text(turn: Turn) -> Turn:
    """An answer with its thought in its text, for templates that have no place for one beside it."""
    more = {key: one for key, one in (turn.more or {}).items() if key != "reasoning_content"}
    return turn._replace(text=with_thought(turn), more=more)
