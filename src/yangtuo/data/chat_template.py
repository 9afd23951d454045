"""The tokenizer's own chat template (jinja), with the spans that the model writes found exactly.

The template is rendered with marks in place of what people say; the frames are what stands between the marks. Where the
prompt of an answer ends is told by rendering what comes before it with `add_generation_prompt`. The frames with the
real words in them must then equal the template rendered with the words themselves, else the row is refused: a template
that rewrites what it is given cannot be trained on exactly. Blanks at the ends of a turn alone may be gone.

Environment as transformers' `render_jinja_template` (5.23) has it, without importing torch and without
`strftime_now`: what is trained must not depend on the day; templates that ask for a date fall back to one of their own.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yangtuo.data.records import Turn
from yangtuo.data.templates import Exchange, Piece, TemplateFault
from yangtuo.errors import TokenizerError

_MARK = "\ue000{}\ue001"  # private-use characters, in no chat template


class _Frame(NamedTuple):
    """The text around an exchange; `before` is two texts where the system prompt stands between them."""

    before: tuple[str, ...]
    after: str
    lead: str
    end: str


class ChatTemplate:
    """A jinja chat template.

    Attributes:
        name: "tokenizer".
        source: the jinja text.
        names: what the template can use beside the messages: bos_token and such.
        default_system: system prompt of rows without one; None to leave it to the template, "" for none.
        end: the control token that ends an answer.
        control_tokens: of the tokenizer; those in the frames become control ids.
    """

    def __init__(self, source: str, names: Mapping[str, str], default_system: str | None, control: Sequence[str]):
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _generation_tag()]
        )
        environment.filters["tojson"] = _as_json
        environment.globals["raise_exception"] = refuse
        self._faults = (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError)
        try:
            self._jinja = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TokenizerError(f"the tokenizer's chat template: {error}") from error
        if not control:
            raise TokenizerError("the tokenizer has a chat template and no control token that could end an answer")
        self.name, self.source, self.names, self.default_system = "tokenizer", source, dict(names), default_system
        self.control_tokens = tuple(control)
        longest_first = sorted(map(re.escape, control), key=len, reverse=True)
        self._end = re.compile(rf"\s*(?:{'|'.join(longest_first)})")
        self._frames: dict[tuple[str, ...], list[_Frame]] = {}
        self._takes_empty: bool | None = None  # once it is known
        try:
            self.end = self._find_frames(("user", "assistant"))[0].end.strip()
        except TemplateFault as fault:
            raise TokenizerError(f"--template tokenizer: {fault}; name another template") from fault

    def __getstate__(self) -> tuple[Any, ...]:
        return self.source, self.names, self.default_system, self.control_tokens

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]  # jinja's compiled code cannot be sent to another process

    def identity(self) -> str:
        """Source and settings."""
        return repr((self.source, sorted(self.names.items()), self.default_system))

    def render(self, turns: Sequence[Turn]) -> list[Exchange]:
        """The dialogue in the template's frames; see the module.

        Raises:
            TemplateFault: the template refuses or rewrites it.
        """
        has_default = self.default_system or (self.default_system == "" and self.takes_empty_system())
        if has_default and turns[0].role != "system":
            turns = [Turn("system", self.default_system or "", trained=False), *turns]
        frames = self._frames_of(turns)
        walk = _Walk(self._render([(turn.role, turn.text) for turn in turns]))
        spoken = turns[1:] if turns[0].role == "system" else turns
        exchanges = []
        for frame, user, answer in zip(frames, spoken[::2], spoken[1::2], strict=True):
            before = [Piece(walk.over("", "", frame.before[0])[2], is_frame=True)]
            if len(frame.before) > 1:
                _, system, tail = walk.over("", turns[0].text, frame.before[1])
                before += [Piece(system, is_frame=False), Piece(tail, is_frame=True)]
            _, asked, after = walk.over("", user.text, frame.after)
            lead, said, end = walk.over(frame.lead, answer.text, frame.end)
            exchanges.append(Exchange(tuple(before), asked, after, lead, said, end, answer.trained, answer.weight))
        return exchanges

    def keeps_own_system(self) -> bool:
        """Whether it writes a system prompt of its own although an empty one asks for none."""
        try:
            told = self._frames_of(_with_system("x"))[0].before
            empty = "".join(self._frames_of(_with_system(""))[0].before)
        except TemplateFault:  # it takes none
            return False
        if len(told) < 2 or not (empty.startswith(told[0]) and empty.endswith(told[1])):
            return False
        return bool(empty[len(told[0]) : len(empty) - len(told[1])].strip())

    def takes_empty_system(self) -> bool:
        """Whether an empty system message can be given; where not, a dialogue without one has no system prompt."""
        if self._takes_empty is None:
            try:
                self._frames_of(_with_system(""))
            except TemplateFault:
                self._takes_empty = False
            else:
                self._takes_empty = True
        return self._takes_empty

    def _frames_of(self, turns: Sequence[Turn]) -> list[_Frame]:
        roles = tuple(turn.role for turn in turns)
        key = (*roles, "without system") if _asks_for_none(turns) else roles
        if key not in self._frames:
            self._frames[key] = self._find_frames(roles, has_empty_system=_asks_for_none(turns))
        return self._frames[key]

    def _find_frames(self, roles: tuple[str, ...], *, has_empty_system: bool = False) -> list[_Frame]:
        """See the module; an empty system prompt has no mark, since templates treat it otherwise than a text."""
        marks = [_MARK.format(i) for i in range(len(roles))]
        if has_empty_system:
            marks[0] = ""
        marked = list(zip(roles, marks, strict=True))
        whole = self._render(marked)
        if any(mark and whole.count(mark) != 1 for mark in marks):
            raise TemplateFault("the tokenizer's chat template leaves out a turn of this row, or has it twice")
        places = [whole.index(mark) for mark in marks]
        if places != sorted(places):
            raise TemplateFault("the tokenizer's chat template has the turns of this row in another order")
        frames, at = [], 0
        for i in range(1 if roles[0] == "system" else 0, len(roles), 2):
            prompt = self._render(marked[: i + 1], add_generation_prompt=True)
            user, answer = places[i : i + 2]
            behind_user, behind_answer = user + len(marks[i]), answer + len(marks[i + 1])
            if not whole.startswith(prompt) or not behind_user <= len(prompt) <= answer:
                raise TemplateFault(
                    "the tokenizer's chat template renders a dialogue unlike the prompts of its answers"
                )
            end = self._end.match(whole, behind_answer)
            if end is None:
                raise TemplateFault("the tokenizer's chat template puts no control token behind an answer")
            before = tuple(whole[at:user].split(marks[0])) if i == 1 and marks[0] else (whole[at:user],)
            frames.append(_Frame(before, whole[behind_user : len(prompt)], whole[len(prompt) : answer], end.group()))
            at = end.end()
        return frames

    def _render(self, turns: Sequence[tuple[str, str]], *, add_generation_prompt: bool = False) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            return self._jinja.render(
                messages=messages, add_generation_prompt=add_generation_prompt, tools=None, documents=None, **self.names
            )
        except self._faults as error:
            raise TemplateFault(f"the tokenizer's chat template refuses it: {str(error)[:120]}") from error


def _asks_for_none(turns: Sequence[Turn]) -> bool:
    return turns[0].role == "system" and not turns[0].text


def _with_system(text: str) -> list[Turn]:
    return [Turn(role, text if role == "system" else "", False) for role in ("system", "user", "assistant")]


class _Walk:
    """Goes through a rendered dialogue from its begin, frame by frame."""

    def __init__(self, whole: str):
        self._whole, self._at = whole, 0

    def over(self, lead: str, words: str, frame: str) -> tuple[str, str, str]:
        """The lead, the words and the frame behind them as they stand here.

        Words may have lost blanks at their ends. The lead may be missing: Qwen3 leaves its empty <think> block out
        where the answer brings one.
        """
        for led in (lead, "") if lead else ("",):
            for kept in _without_blanks(words):
                if self._whole.startswith(f"{led}{kept}{frame}", self._at):
                    self._at += len(led) + len(kept) + len(frame)
                    return led, kept, frame
        raise TemplateFault("the tokenizer's chat template changes the text of this row's turns")


def _without_blanks(text: str) -> Sequence[str]:
    if text == text.strip():
        return (text,)
    # What templates do: the whole, `| trim`, and Python's methods.
    stripped = (text.strip(), text.lstrip(), text.rstrip(), text.strip("\n"), text.lstrip("\n"), text.rstrip("\n"))
    return tuple(dict.fromkeys((text, *stripped)))


def _as_json(
    value: Any,
    ensure_ascii: bool = False,  # as transformers has it: templates give them by place too
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _generation_tag() -> type:
    """{% generation %} marks the answer for other programs; here it is found without, and the tag does nothing."""
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012  # jinja's own way to name them

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation
