"""The frames of a template as constant texts, for programs that have neither this package nor jinja.

A `FrameTemplate` is made of them. Those of a tokenizer's own chat template are found by rendering marked dialogues, and
then have to reproduce what it renders: a template whose frames change from turn to turn has no constant ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.records import Turn
from yangtuo.data.templates import Exchange, FrameTemplate, Template, TemplateFault
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError
from yangtuo.i18n import Message

_MARKS = ("问", "答", "q", "a", "问题", "回答")  # a template with constant frames does not look at them
_PROBES = (
    ("你好", "您好！", "再见", "再见。", "?", "!"),
    ('say "{{ x }}" \\ {% if %}', "```python\nprint('x')\n```", "1\n\n2", "\\n", "<b>", "</b>"),
)
_BLANKS = ("  q \n", "\n a  ", "\n q\n", " a\n ")


@dataclass(frozen=True)
class StaticTemplate:
    """What stands around the words of a dialogue, without the BOS at its very begin.

    Attributes:
        with_system: before and after the system prompt; None where the template takes none.
        without_system: in its place where there is none; None where the template needs one.
        default_system: system prompt of dialogues without one; "" for none.
        tells_empty_system: whether an empty system prompt is rendered like any other, rather than as none.
        after_user: between a user turn and what the model writes.
        lead: what a template puts before an answer that is past; mostly "".
        end: behind an answer.
        between: before a further user turn.
        bos: text of the BOS that training puts before all; "" where it puts none.
        cuts_blanks: whether the template cuts blanks off the ends of what is said.
    """

    with_system: tuple[str, str] | None
    without_system: str | None
    default_system: str
    after_user: str
    lead: str
    end: str
    between: str
    bos: str
    tells_empty_system: bool = False
    cuts_blanks: bool = False

    def prompt(self, turns: Sequence[Turn]) -> str:
        """The text that the model reads before it answers the last of the turns, BOS left out.

        Raises:
            DataError: a system prompt where the template takes none, or none where it needs one.
        """
        has_system = turns[0].role == "system"
        system = turns[0].text if has_system else self.default_system
        spoken = turns[1:] if has_system else turns
        text = self._opening(system, is_told=bool(system) or (has_system and self.tells_empty_system))
        for i in range(0, len(spoken), 2):
            if i:
                text += self.lead + spoken[i - 1].text + self.end + self.between
            text += spoken[i].text + self.after_user
        return text

    def _opening(self, system: str, *, is_told: bool) -> str:
        opening = f"{self.with_system[0]}{system}{self.with_system[1]}" if self.with_system else None
        found = opening if is_told else self.without_system
        if found is None:
            if is_told:
                raise DataError("the template takes no system prompt")
            raise DataError("the template needs a system prompt")
        return found


def bos_of(tokenizer: Tokenizer) -> str:
    """The text of the BOS that the tokenizer's own rule puts before a text, "" where it puts none."""
    return "" if tokenizer.bos_id is None else tokenizer.name_of(tokenizer.bos_id) or ""


def end_of(tokenizer: Tokenizer, template: Template) -> str:
    """The text of the control token that ends an answer.

    Raises:
        DataError: the tokenizer has no text for it.
    """
    end = template.end or tokenizer.name_of(tokenizer.eos_id)
    if not end:
        raise DataError(
            "{folder}: the end token {eos_id} has no text that a template could name",
            folder=tokenizer.folder,
            eos_id=tokenizer.eos_id,
        )
    return end


def frames_of(template: Template, tokenizer: Tokenizer) -> StaticTemplate:
    """The frames of a template.

    Raises:
        DataError: a chat template whose frames are not the same in every turn, or change with what is said.
    """
    bos, controls = bos_of(tokenizer), template.control_tokens
    if isinstance(template, FrameTemplate):
        before, _, after = template.opening.partition("{system}")
        return StaticTemplate(
            with_system=(without_bos(before, bos, controls), after),
            without_system=without_bos(template.opening_without_system, bos, controls),
            default_system=template.default_system or "",
            after_user=template.after_user,
            lead="",
            end=end_of(tokenizer, template),
            between=template.between,
            bos=bos,
        )
    assert isinstance(template, ChatTemplate), type(template)
    return _found(template, bos)


def without_bos(opening: str, bos: str, controls: Sequence[str]) -> str:
    """An opening without the BOS that it begins with: the encoder puts none before such a one."""
    return opening.removeprefix(bos) if bos in controls else opening


def _found(template: ChatTemplate, bos: str) -> StaticTemplate:
    """Frames that reproduce a chat template, see the module."""
    plain, told = _rendered(template, None), _rendered(template, "令")
    if plain is None and told is None:
        raise _not_constant(Message("it refuses every dialogue of three turns"))
    rendered = plain or told
    assert rendered
    with_system = without_system = None
    default = template.default_system or ""
    if told:
        opening = told[0].before
        if len(opening) != 3:
            raise _not_constant(Message("it does not put the system prompt before the first question"))
        with_system = without_bos(opening[0].text, bos, template.control_tokens), opening[2].text
    elif _takes(template, (Turn("system", "令", trained=False), *_turns(_MARKS[:1]))):
        raise _not_constant(Message("it puts the system prompt elsewhere in a longer dialogue"))
    if plain and not default:
        without_system = without_bos(plain[0].before[0].text, bos, template.control_tokens)
    frames = StaticTemplate(
        with_system=with_system,
        without_system=without_system,
        default_system=default,
        after_user=rendered[0].after,
        lead="".join(piece.text for piece in rendered[0].lead),
        end=str(rendered[0].end),
        between="".join(piece.text for piece in rendered[1].before),
        bos=bos,
        tells_empty_system=with_system is not None and _tells_empty(template),
        cuts_blanks=_cuts_blanks(template),
    )
    for dialogue in _probes(frames):
        if frames.prompt(dialogue) != _prompt(template, bos, dialogue):
            raise _not_constant(Message("the text around a turn depends on the turn"))
    return frames


def _not_constant(why: str) -> DataError:
    return DataError(
        "the tokenizer's chat template cannot be written as constant texts around what is said: {why}; use a server "
        "that reads chat_template.jinja (vLLM, llama.cpp, transformers)",
        why=why,
    )


def _rendered(template: ChatTemplate, system: str | None) -> list[Exchange] | None:
    """Three exchanges; None where the template refuses them."""
    begin = () if system is None else (Turn("system", system, trained=False),)
    try:
        return template.in_history((*begin, *_turns(_MARKS)))
    except TemplateFault:
        return None


def _takes(template: ChatTemplate, turns: Sequence[Turn]) -> bool:
    try:
        template.prompt_of(turns)
    except TemplateFault:
        return False
    return True


def _turns(texts: Sequence[str]) -> list[Turn]:
    return [Turn("assistant" if i % 2 else "user", text, trained=False) for i, text in enumerate(texts)]


def _probes(frames: StaticTemplate) -> Iterator[list[Turn]]:
    """Dialogues of one to three questions, as the frames can take them."""
    begins: list[list[Turn]] = [[]] if frames.without_system is not None or frames.default_system else []
    if frames.with_system:
        begins += [[Turn("system", text, trained=False)] for text in ("要有礼貌。", 'a {b} "c"\\')]
        if frames.tells_empty_system or frames.without_system is not None:
            begins.append([Turn("system", "", trained=False)])
    for begin in begins:
        for texts in _PROBES:
            for num in (1, 3, 5):
                yield [*begin, *_turns(texts[:num])]


def _prompt(template: ChatTemplate, bos: str, turns: Sequence[Turn]) -> str:
    exchanges = template.prompt_of(turns)
    text = ""
    for i, exchange in enumerate(exchanges):
        text += "".join(piece.text for piece in exchange.before) + exchange.user + exchange.after
        if i < len(exchanges) - 1:
            text += "".join(piece.text for piece in exchange.lead) + f"{exchange.answer}{exchange.end}"
    return without_bos(text, bos, template.control_tokens)


def _tells_empty(template: ChatTemplate) -> bool:
    asked = (Turn("system", "", trained=False), *_turns(_MARKS[:1]))
    told = (Turn("system", "令", trained=False), *_turns(_MARKS[:1]))
    return _takes(template, asked) and _opens(template, asked) == _opens(template, told).replace("令", "", 1)


def _opens(template: ChatTemplate, turns: Sequence[Turn]) -> str:
    return "".join(piece.text for piece in template.prompt_of(turns)[0].before)


def _cuts_blanks(template: ChatTemplate) -> bool:
    begin = [] if _takes(template, _turns(_BLANKS[:3])) else [Turn("system", "令", trained=False)]
    exchanges = template.in_history([*begin, *_turns(_BLANKS)])
    kept = [text for exchange in exchanges for text in (exchange.user, exchange.answer)]
    return kept != list(_BLANKS)
