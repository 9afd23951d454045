"""The tokenizer's own chat template (jinja), with the spans that the model writes found exactly.

Most dialogues take a short way: the template is rendered once for each order of roles with marks in place of what
people say, and the frames are what stands between the marks. The frames with the real words in them must then equal the
template rendered with the words themselves. Dialogues with thoughts, tools or settings of their own, and those of
which the template renders the history otherwise than the last answer, go the way of `data.as_served`.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yangtuo.data.as_served import AsServed
from yangtuo.data.jinja_source import names_used, render_function
from yangtuo.data.records import Turn
from yangtuo.data.templates import Exchange, Piece, Rendered, TemplateFault
from yangtuo.data.thinking import SWITCHES, empty_block, has_block, opened_by, thought_key_of
from yangtuo.errors import TokenizerError
from yangtuo.i18n import Message

_REWRITES = Message("the tokenizer's chat template changes the text of this row's turns")
_MARK = "\ue000{}\ue001"  # private-use characters, in no chat template


class _Frame(NamedTuple):
    """The text around an exchange; `before` is two texts where the system prompt stands between them."""

    before: tuple[str, ...]
    after: str
    empty_thought: str
    lead: str
    end: str


class _Frames(NamedTuple):
    """Those of a dialogue; `is_as_asked` where each answer stands in it as it does when it is asked for."""

    of_exchanges: list[_Frame]
    is_as_asked: bool


# Names that every chat template is given.
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "namespace", "range", "dict"}


class ChatTemplate:
    """A jinja chat template.

    Attributes:
        name: "tokenizer".
        source: the jinja text.
        names: the tokenizer's own that the template can use beside the messages: bos_token and such.
        kwargs: what else it is given (`--chat_template_kwargs`).
        default_system: system prompt of rows without one; None to leave it to the template, "" for none.
        end: the control token that ends an answer.
        control_tokens: of the tokenizer; those in the frames become control ids.
        kwargs_used: the names that it asks for, of those that `kwargs` and rows may give.
    """

    def __init__(
        self,
        source: str,
        names: Mapping[str, str],
        default_system: str | None,
        control: Sequence[str],
        kwargs: Mapping[str, Any] | None = None,
    ):
        self._render = render_function(source, {**names, **(kwargs or {})})
        self.kwargs = dict(kwargs or {})
        if not control:
            raise TokenizerError("the tokenizer has a chat template and no control token that could end an answer")
        self.name, self.source, self.names, self.default_system = "tokenizer", source, dict(names), default_system
        self.control_tokens = tuple(control)
        self._frames: dict[tuple[str, ...], _Frames | None] = {}
        self._takes_empty: bool | None = None  # once it is known
        try:
            used = names_used(source)
            self.kwargs_used = frozenset(used - {*_GIVEN, *names})
            switches = {name for name in SWITCHES if name in used} - self.kwargs.keys()
            eos = names.get("eos_token", "")
            known = eos if eos in control else ""
            self._as_served = AsServed(self._render, control, known, thought_key_of(source), switches)
            self.end = self._as_served.end
        except TemplateFault as fault:
            raise TokenizerError("--template tokenizer: {fault}; name another template", fault=fault) from fault

    def __getstate__(self) -> tuple[Any, ...]:
        return self.source, self.names, self.default_system, self.control_tokens, self.kwargs

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # jinja's compiled code cannot be sent to another process

    def identity(self) -> str:
        """Source and settings."""
        told = (sorted(self.kwargs.items()),) if self.kwargs else ()
        return repr((self.source, sorted(self.names.items()), self.default_system, *told))

    @property
    def writes_bos(self) -> bool:
        """It does, or there is none: servers add none to what it renders."""
        return True

    def render(
        self, turns: Sequence[Turn], tools: Sequence[Any] = (), more: Mapping[str, Any] | None = None
    ) -> list[Rendered]:
        """The dialogue in the template's frames; see the module.

        Raises:
            TemplateFault: the template refuses or rewrites it.
        """
        turns = self._with_default(turns)
        frames = None if tools or more else self._plain_frames(turns)
        if frames and frames.is_as_asked:
            with contextlib.suppress(TemplateFault):  # it looks at the words, and then writes other frames
                return [Rendered(tuple(turns), self._filled(frames, turns))]
        return self._as_served.render(turns, tools, more or {})

    def prompt_of(self, turns: Sequence[Turn], tools: Sequence[Any] = ()) -> list[Exchange]:
        """See `Template`."""
        turns = self._with_default(turns)
        asked = [*turns, Turn("assistant", "", trained=False)]
        frames = None if tools else self._plain_frames(asked)
        if frames and frames.is_as_asked:
            exchanges = self._filled(frames, asked)
            exchanges[-1] = exchanges[-1]._replace(empty_thought="", lead=())
            return exchanges
        return self._as_served.prompt_of(turns, tools)

    def in_history(self, turns: Sequence[Turn]) -> list[Exchange]:
        """The exchanges of a plain dialogue as they stand in its history, even where they were asked otherwise.

        Raises:
            TemplateFault: the template refuses or rewrites it.
        """
        turns = self._with_default(turns)
        frames = self._plain_frames(turns)
        if frames is None:
            raise TemplateFault(
                Message("the tokenizer's chat template does not put the same text around every dialogue of these roles")
            )
        return self._filled(frames, turns)

    def _with_default(self, turns: Sequence[Turn]) -> Sequence[Turn]:
        has_default = self.default_system or (self.default_system == "" and self.takes_empty_system())
        if has_default and turns[0].role != "system":
            return [Turn("system", self.default_system or "", trained=False), *turns]
        return turns

    def _filled(self, frames: _Frames, turns: Sequence[Turn]) -> list[Exchange]:
        walk = _Walk(self._render([{"role": turn.role, "content": turn.text} for turn in turns]))
        spoken = turns[1:] if turns[0].role == "system" else turns
        exchanges = []
        for frame, user, answer in zip(frames.of_exchanges, spoken[::2], spoken[1::2], strict=True):
            before = [Piece(walk.over(frame.before[0]), is_frame=True)]
            if len(frame.before) > 1:
                system, tail = walk.words(turns[0].text, frame.before[1])
                before += [Piece(system, is_frame=False), Piece(tail, is_frame=True)]
            asked, after = walk.words(user.text, frame.after)
            if frame.empty_thought or frame.lead:
                walk.over(frame.empty_thought + frame.lead)
            said, end = walk.words(answer.text, frame.end)
            lead = (Piece(frame.lead, is_frame=True),) if frame.lead else ()
            block, trained, weight = frame.empty_thought, answer.trained, answer.weight
            exchanges.append(Exchange(tuple(before), asked, after, block, lead, said, end, trained, weight))
        return exchanges

    def keeps_own_system(self) -> bool:
        """Whether it writes a system prompt of its own although an empty one asks for none."""
        try:
            told = self.prompt_of(_with_system("\ue002"))[0]
            empty = self.prompt_of(_with_system(""))[0]
        except TemplateFault:  # it takes none
            return False
        begin, found, rest = _before(told).partition("\ue002")
        written = _before(empty)
        if not found or not (written.startswith(begin) and written.endswith(rest)):
            return False
        return bool(written[len(begin) : len(written) - len(rest)].strip())

    def takes_empty_system(self) -> bool:
        """Whether an empty system message can be given; where not, a dialogue without one has no system prompt."""
        if self._takes_empty is None:
            try:
                self._render([{"role": turn.role, "content": turn.text} for turn in _with_system("")])
            except TemplateFault:
                self._takes_empty = False
            else:
                self._takes_empty = True
        return self._takes_empty

    def _plain_frames(self, turns: Sequence[Turn]) -> _Frames | None:
        """Frames of a dialogue by its roles; None for one that has more than texts, or that has no such frames."""
        for turn in turns:
            if turn.more or turn.role == "tool" or has_block(turn.text):
                return None
        roles = tuple([turn.role for turn in turns])
        key = (*roles, "without system") if _asks_for_none(turns) else roles
        if key not in self._frames:
            try:
                self._frames[key] = self._find_frames(roles, has_empty_system=_asks_for_none(turns))
            except TemplateFault:
                self._frames[key] = None
        return self._frames[key]

    def _find_frames(self, roles: tuple[str, ...], *, has_empty_system: bool = False) -> _Frames | None:
        """See the module; an empty system prompt has no mark, since templates treat it otherwise than a text."""
        marks = [_MARK.format(i) for i in range(len(roles))]
        if has_empty_system:
            marks[0] = ""
        marked = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        whole = self._render(marked)
        places = [whole.find(mark) for mark in marks]
        if any(mark and whole.count(mark) != 1 for mark in marks) or places != sorted(places):
            return None
        frames, at, is_as_asked = [], 0, True
        for i in range(1 if roles[0] == "system" else 0, len(roles), 2):
            prompt = self._render(marked[: i + 1], add_generation_prompt=True)
            user, answer = places[i : i + 2]
            behind_user, behind_answer = user + len(marks[i]), answer + len(marks[i + 1])
            tail = self._as_served.tail
            if not whole.startswith(tail, behind_answer):
                return None
            if not whole.startswith(prompt) or not behind_user <= len(prompt) <= answer:
                return None
            before = tuple(whole[at:user].split(marks[0])) if i == 1 and marks[0] else (whole[at:user],)
            lead = whole[len(prompt) : answer]
            block = empty_block(lead, is_open=bool(opened_by(prompt)))
            frames.append(_Frame(before, whole[behind_user : len(prompt)], block, lead[len(block) :], tail))
            at = behind_answer + len(tail)
            is_as_asked = is_as_asked and self._render(marked[: i + 2]).startswith(whole[:at])
        return _Frames(frames, is_as_asked)


def _asks_for_none(turns: Sequence[Turn]) -> bool:
    return turns[0].role == "system" and not turns[0].text


def _with_system(text: str) -> list[Turn]:
    return [Turn("system", text, trained=False), Turn("user", "", trained=False)]


def _before(first: Exchange) -> str:
    return "".join(piece.text for piece in first.before) + first.user + first.after


class _Walk:
    """Goes through a rendered dialogue from its begin, frame by frame."""

    def __init__(self, whole: str):
        self._whole, self._at = whole, 0

    def over(self, frame: str) -> str:
        """A frame that stands here."""
        if not self._whole.startswith(frame, self._at):
            raise TemplateFault(_REWRITES)
        self._at += len(frame)
        return frame

    def words(self, words: str, frame: str) -> tuple[str, str]:
        """Words as they stand here, which may have lost blanks at their ends, and the frame behind them."""
        for kept in _without_blanks(words):
            if self._whole.startswith(f"{kept}{frame}", self._at):
                self._at += len(kept) + len(frame)
                return kept, frame
        raise TemplateFault(_REWRITES)


def _without_blanks(text: str) -> Sequence[str]:
    if text == text.strip():
        return (text,)
    # What templates do: the whole, `| trim`, and Python's methods.
    stripped = (text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"), text.lstrip("\n"), text.rstrip("\n"))
    return tuple(dict.fromkeys((text, *stripped)))
