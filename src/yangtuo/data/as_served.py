"""Dialogues as a server renders them: each answer behind the prompt that it would be asked with.

For an answer, what comes before it is rendered with `add_generation_prompt`, as a server does, and once more with the
answer. What the second text adds is what the model is taught, up to the control token that ends it. Answers stay in one
example as long as the prompt of the next one begins with what was taught; where a template renders the history
otherwise (thoughts left out, blocks moved), the next answer begins an example of its own.

Nothing is taken on trust: texts, thoughts, tools and calls have to be found in what was rendered, or the row is
refused.
"""

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from yangtuo.data.hidden_controls import HiddenControls
from yangtuo.data.jinja_source import Render
from yangtuo.data.records import Turn
from yangtuo.data.templates import Exchange, Rendered, TemplateFault
from yangtuo.data.thinking import (
    continued,
    empty_block,
    opened_by,
    thought_of,
    with_thought,
    without_closed_block,
    without_thought,
)

_MARK = "\ue000\ue001"  # private-use characters, in no chat template
_CALLS = "tool_calls"


class _Spelling(NamedTuple):
    """What templates expect otherwise of messages with calls; the first that a template takes is used."""

    empty: str | None  # the text of a message that is a call alone
    has_text_arguments: bool
    has_ids: bool
    tool_role: str


_CHOICES = (("", None), (False, True), (False, True), ("tool", "observation"))
_SPELLINGS = [_Spelling(*one) for one in itertools.product(*_CHOICES)]
_PLAIN = _Spelling("", False, False, "tool")


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
        self._spelling: _Spelling | None = None  # the one that this template takes, once it is known
        self._next_tokens: dict[str, str] = {}
        self.tail = self._usual_tail()
        self.end = self._control.findall(self.tail)[-1]
        self._splits_thoughts = self._puts_block_before_thought()

    def render(self, turns: Sequence[Turn], tools: Sequence[Any], more: Mapping[str, Any]) -> list[Rendered]:
        """The examples of a dialogue, in the order of their answers.

        A thought is asked for where the template has a switch for it that is off by itself.
        """
        try:
            answers = self._answered(turns, tools, more)
        except _NoThoughtAsked:
            switches = dict.fromkeys(self._switches, True)
            if not switches or self._switches & more.keys():
                raise
            answers = self._answered(turns, tools, {**more, **switches})
        places = [i for i, turn in enumerate(turns) if turn.role == "assistant" and turn.trained]
        examples: list[list[int]] = []
        for k in range(len(answers)):
            if k and answers[k].prompt.startswith(answers[k - 1].whole):
                examples[-1].append(k)
            else:
                examples.append([k])
        return [self._example(turns, [places[k] for k in of], [answers[k] for k in of]) for of in examples]

    def prompt_of(self, turns: Sequence[Turn], tools: Sequence[Any]) -> list[Exchange]:
        """What a server shows the model before it answers the last turn."""

        def rendered(spelling: _Spelling) -> str:
            text = self._render(self._messages(turns, spelling), self._hidden.hide(tools), add_generation_prompt=True)
            self._check_prompt(text, turns, tools)
            return text

        answer = _Answer(Turn("assistant", "", False), self._first_taken(turns, tools, rendered), "", "", self.end)
        return [self._exchange(answer, 0, turns)]

    def _first_taken(self, turns: Sequence[Turn], tools: Sequence[Any], attempt: Any) -> Any:
        if not tools and not any(turn.role == "tool" or _CALLS in (turn.more or ()) for turn in turns):
            return attempt(_PLAIN)
        if self._spelling:
            return attempt(self._spelling)
        first_fault = None
        for spelling in _SPELLINGS:
            try:
                found = attempt(spelling)
            except TemplateFault as fault:
                first_fault = first_fault or fault
            else:
                if any(_CALLS in (turn.more or ()) for turn in turns) and any(turn.role == "tool" for turn in turns):
                    self._spelling = spelling
                return found
        assert first_fault
        raise first_fault

    def _answered(self, turns: Sequence[Turn], tools: Sequence[Any], more: Mapping[str, Any]) -> list[_Answer]:
        found: list[_Answer] = self._first_taken(
            turns, tools, lambda spelling: self._answers(turns, tools, more, spelling)
        )
        return found

    def _answers(
        self, turns: Sequence[Turn], tools: Sequence[Any], more: Mapping[str, Any], spelling: _Spelling
    ) -> list[_Answer]:
        messages, shown = self._messages(turns, spelling), self._hidden.hide(tools)

        def render(messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str:
            return self._render(messages, shown, more, add_generation_prompt=add_generation_prompt)

        found = []
        for i, turn in enumerate(turns):
            if turn.role == "assistant" and turn.trained:
                prompt = render(messages[:i], add_generation_prompt=True)
                self._check_prompt(prompt, turns[:i], tools)
                whole = render(messages[: i + 1])
                said = whole[len(prompt) :] if whole.startswith(prompt) else None
                thought = self._hidden.hide(thought_of(turn), has_thought=True)
                if said is None or thought not in said:
                    marked = {key: value for key, value in messages[i].items() if key != self._thought_key}
                    said = self._by_mark(prompt, turn, render([*messages[:i], {**marked, "content": _MARK}]))
                self._check_answer(said, turn)
                block = "" if thought else empty_block(said, is_open=bool(opened_by(prompt)))
                said, end = self._divided(said[len(block) :], turn)
                found.append(_Answer(turn, prompt, block, said, end))
        return found

    def _by_mark(self, prompt: str, turn: Turn, marked: str) -> str:
        """What is taught where the template leaves the thought out, or opens a block in the prompt alone.

        Args:
            prompt: of the answer.
            turn: the answer.
            marked: the dialogue up to it, with a mark in place of its text, and without a thought.
        """
        head, mark, tail = marked.partition(_MARK)
        if not mark:
            raise TemplateFault("the tokenizer's chat template has no place for a text or thought beside a tool call")
        thought = thought_of(turn)
        if thought and without_closed_block(prompt) != prompt:
            raise _NoThoughtAsked(
                "the answer has a thought, and the prompt says that there is none; leave the thought out, or ask for "
                "it with chat_template_kwargs"
            )
        before = without_closed_block(head)
        opened = opened_by(prompt)
        full: str = self._hidden.hide(with_thought(turn, opened or "<think>\n"), has_thought=True)
        if prompt.startswith(before):
            if prompt == before or (not thought and without_closed_block(prompt) == before):
                return full + tail
            if prompt == before + opened:
                return continued(full, opened, has_thought=bool(thought)) + tail
        elif head.startswith(prompt):
            return (before[len(prompt) :] if thought else head[len(prompt) :]) + full + tail
        raise TemplateFault("the tokenizer's chat template renders a dialogue unlike the prompts of its answers")

    def _divided(self, said: str, turn: Turn) -> tuple[str, str]:
        """What is said, and the control token that ends it."""
        before, tail, behind = said.rpartition(self.tail)
        if tail and not self._control.sub("", without_closed_block(behind)).strip():
            return before, tail
        found = self._ends.search(said)
        if found is None:
            return said, self._next_token("tool" if _CALLS in (turn.more or ()) else "user")
        *_, last = self._control.finditer(said)
        return said[: last.start()], last.group()

    def _usual_tail(self) -> str:
        """What stands behind an answer in a dialogue and at its end alike, up to its last control token."""
        asked = {"role": "user", "content": "q"}
        said = {"role": "assistant", "content": _MARK}
        _, mark, at_end = self._render([asked, said]).partition(_MARK)
        if not mark:
            raise TemplateFault("the tokenizer's chat template leaves out an answer")
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
                raise TemplateFault("the tokenizer's chat template puts no control token behind an answer")
            self._next_tokens[role] = found.group() if found else self._eos
        return self._next_tokens[role]

    def _example(self, turns: Sequence[Turn], places: Sequence[int], answers: Sequence[_Answer]) -> Rendered:
        shown = [
            turn if turn.role != "assistant" or i in places else turn._replace(trained=False)
            for i, turn in enumerate(turns[: places[-1] + 1])
        ]
        exchanges, begin = [], 0
        for place, answer in zip(places, answers, strict=True):
            exchanges.append(self._exchange(answer, begin, turns[:place]))
            begin = len(answer.whole)
        return Rendered(tuple(shown), exchanges)

    def _exchange(self, answer: _Answer, begin: int, turns: Sequence[Turn]) -> Exchange:
        prompt, hidden = answer.prompt[begin:], self._hidden
        last = next((turn.text for turn in reversed(turns) if turn.role == "user"), "")
        words = hidden.hide(last).strip()
        before, _, after = prompt.partition(words) if words else (prompt, "", "")
        if prompt.count(words) != 1 or hidden.shown(after) != after:  # then nothing may be shortened
            before, words, after = prompt, "", ""
        is_text = _CALLS not in (answer.turn.more or ()) and not hidden.has_control(answer.said)
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

    def _messages(self, turns: Sequence[Turn], spelling: _Spelling) -> list[dict[str, Any]]:
        return [self._message(turn, number, spelling) for number, turn in enumerate(turns)]

    def _message(self, turn: Turn, number: int, spelling: _Spelling) -> dict[str, Any]:
        is_answer = turn.role == "assistant"
        more = {self._thought_key if key == "reasoning_content" else key: one for key, one in (turn.more or {}).items()}
        if _CALLS in more:
            more[_CALLS] = [_spelled(call, f"call{number:03}{i:02}", spelling) for i, call in enumerate(more[_CALLS])]
        if turn.role == "tool" and spelling.has_ids:
            more.setdefault("tool_call_id", f"call{number:03}00")
        text = turn.text
        if self._splits_thoughts and is_answer and (thought := thought_of(turn)):
            more[self._thought_key], text = thought, without_thought(text)
        role = spelling.tool_role if turn.role == "tool" else turn.role
        content = text if text or _CALLS not in more else spelling.empty
        message: dict[str, Any] = self._hidden.hide({"role": role, "content": content, **more}, has_thought=is_answer)
        return message

    def _check_prompt(self, prompt: str, turns: Sequence[Turn], tools: Sequence[Any]) -> None:
        for turn in turns:
            text = self._hidden.hide(without_thought(turn.text) if turn.role == "assistant" else turn.text).strip()
            if text not in prompt and _in_json(text) not in prompt:
                raise TemplateFault("the tokenizer's chat template leaves out or changes a turn of this row")
            self._check_calls(prompt, turn)
        for tool in tools:
            name = _name_of(tool)
            if name and name not in prompt:
                raise TemplateFault(
                    f"the tokenizer's chat template does not show {name!r} of this row's tools (or functions), so that "
                    "tool_calls (or function_call) have no place; write them into the texts, or take a model with tools"
                )

    def _check_answer(self, said: str, turn: Turn) -> None:
        for text in (thought_of(turn), without_thought(turn.text).strip()):
            if self._hidden.hide(text, has_thought=True) not in said:
                raise TemplateFault("the tokenizer's chat template changes the text of this row's turns")
        self._check_calls(said, turn)

    def _check_calls(self, text: str, turn: Turn) -> None:
        for call in (turn.more or {}).get(_CALLS, ()):
            name, given = call["function"]["name"], call["function"]["arguments"]
            is_of_python = isinstance(given, dict) and str(given) in text  # a template that expects text
            if name not in text or (is_of_python and json.dumps(given, ensure_ascii=False) not in text):
                raise TemplateFault("the tokenizer's chat template leaves out or changes a tool call of this row")


def _spelled(call: Mapping[str, Any], call_id: str, spelling: _Spelling) -> dict[str, Any]:
    function = dict(call["function"])
    if spelling.has_text_arguments and not isinstance(function["arguments"], str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return {**({"id": call_id} if spelling.has_ids else {}), **call, "function": function}


def _name_of(tool: Any) -> str:
    function = tool.get("function", tool) if isinstance(tool, dict) else {}
    return str(function.get("name", "")) if isinstance(function, dict) else ""


def _in_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
