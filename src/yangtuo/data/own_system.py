"""What a template tells the model of its own before a dialogue that has no system prompt."""

import re
from collections.abc import Sequence
from itertools import takewhile

from yangtuo.data.records import Turn
from yangtuo.data.templates import FrameTemplate, Template, TemplateFault

_MARK = "\ue000{}\ue001"  # characters that no template has


def own_system(template: Template) -> str:
    """The text, without control tokens; "" for nothing.

    It is what stands before the first question and not before the second, since some templates write more than a system
    prompt there, as a date; or else what stands in the place of a system prompt.
    """
    if isinstance(template, FrameTemplate):
        return template.default_system or ""
    roles = ("system", "user", "assistant", "user")
    system, *spoken = (Turn(role, _MARK.format(i), trained=False) for i, role in enumerate(roles))
    question, answer, other = (turn.text for turn in spoken)
    try:
        opening = _prompt(template, spoken[:1]).partition(question)[0]
        again = _prompt(template, spoken).partition(answer)[2].partition(other)[0]
        units, of_again = _units(template, opening), _units(template, again)
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(units), reversed(of_again), strict=False))
        if num_alike := sum(1 for _ in alike):
            own = [unit for unit in units[: len(units) - num_alike] if unit not in template.control_tokens]
            return "".join(own).strip().removeprefix("system").strip()
        begin, _, end = _prompt(template, [system, spoken[0]]).partition(question)[0].partition(system.text)
    except TemplateFault:  # it takes no second turn, or no system prompt
        return ""
    is_framed = opening.startswith(begin) and opening.endswith(end) and len(opening) >= len(begin) + len(end)
    return opening[len(begin) : len(opening) - len(end)].strip() if is_framed else ""


def _units(template: Template, text: str) -> list[str]:
    """Control tokens, and the texts between them."""
    longest_first = sorted(map(re.escape, template.control_tokens), key=len, reverse=True)
    return [unit for unit in re.split(f"({'|'.join(longest_first)})", text) if unit]


def _prompt(template: Template, turns: Sequence[Turn]) -> str:
    """The text that the model reads before it answers."""
    parts: list[str] = []
    for exchange in template.prompt_of(turns):
        parts += [piece.text for piece in exchange.before]
        parts += [exchange.user, exchange.after, exchange.empty_thought, *(piece.text for piece in exchange.lead)]
        parts += [exchange.answer, exchange.end or ""]
    return "".join(parts)
