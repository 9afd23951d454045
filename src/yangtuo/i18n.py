"""The language of what a person reads: English as it stands in the code, or Chinese out of one gettext catalogue.

What `tr` is given is a whole sentence with named places, filled in by `str.format` afterwards, so that Chinese may put
them in another order; a log line is translated where it is shown, and its places are those of `%`. A sentence that
goes to a file as well as to the screen is a `Message`: English text that knows its template; so is the text of an
error. Files are English; what a page is made of is there in Chinese too (`with_chinese`). `scripts/catalogue.py`
collects the messages; the catalogue lies in `locale/`.
"""

import gettext
import locale
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

LANGUAGES = ("zh", "en")
VARIABLE = "YANGTUO_LANG"
DOMAIN, FOLDER = "yangtuo", Path(__file__).with_name("locale")
_BETWEEN = {
    ", ": "，",
    "; ": "；",
    " and ": "和",
    " or ": "或",
    " ": "",
}  # what stands between sentences or parts of a list, in Chinese
# A message of places alone, such as "{title}: {problem}", is not in the catalogue.
_BETWEEN_PLACES = {": ": "：", ", ": "，", "; ": "；"}
_PLACE, _MARK = re.compile(r"\{[^{}]*\}"), re.compile("([:,;] )(?![^{]*\\})")
_OF_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides, as gettext has it

_chosen: gettext.NullTranslations = gettext.NullTranslations()


def use(language: str) -> None:
    """Speak this language, "zh" or "en", from now on."""
    global _chosen
    _chosen = _catalogue() if language == "zh" else gettext.NullTranslations()


def tr(message: str) -> str:
    """The message in the chosen language; itself where the catalogue does not have it."""
    return _said(message, _chosen)


def in_chinese(message: str) -> str:
    """The message in Chinese, whatever is spoken: for a page that has both languages."""
    return _said(message, _catalogue())


def _said(message: str, catalogue: gettext.NullTranslations) -> str:
    if isinstance(message, Message):
        return message.shown(catalogue)
    return catalogue.gettext(message) if message else message


def with_chinese(name: str, said: str | Sequence[str]) -> dict[str, Any]:
    """A text or several under a name, and in Chinese under the same name with `_zh`, as files have it.

    Of these a page is made that shows both languages.
    """
    chinese = in_chinese(said) if isinstance(said, str) else [in_chinese(one) for one in said]
    return {name: said, f"{name}_zh": chinese}


class Message(str):
    """An English sentence, filled in, that still knows its template and values: `tr` says it in another language.

    It is a `str` like any other, so that files, JSON and comparisons have the English text. A value may be a `Message`
    itself. What is made of it by `+`, `join` or an f-string is plain English text again.
    """

    __slots__ = ("_template", "_values")
    _template: str
    _values: dict[str, Any]

    def __new__(cls, template: str, /, **values: Any) -> Self:
        """Fill in a template with named places as `str.format` has them; it has to be in the catalogue."""
        made = super().__new__(cls, template.format(**values))
        made._template, made._values = template, values
        return made

    @property
    def template(self) -> str:
        """The sentence with its places, in English."""
        return self._template

    @property
    def values(self) -> Mapping[str, Any]:
        """What stands at its places, by their names."""
        return self._values

    def with_values(self, **values: Any) -> Self:
        """The same sentence, other values at some of its places."""
        return _made_again(type(self), self._template, {**self._values, **values})  # type: ignore[return-value]

    def shown(self, catalogue: gettext.NullTranslations) -> str:
        """Out of a catalogue, with what stands at its places out of the same."""
        template = catalogue.gettext(self._template)
        if _is_chinese(catalogue) and not any(map(str.isalnum, _PLACE.sub("", template))):
            template = "".join(_BETWEEN_PLACES.get(part, part) for part in _MARK.split(template))
        return template.format(**{name: _value(value, catalogue) for name, value in self._values.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self._template, self._values)


def gettext_noop(template: str) -> str:
    """The template itself: marks one for the catalogue that becomes a `Message` elsewhere."""
    return template


class Listed(Message):
    """Messages, or texts, one after the other."""

    def __new__(cls, parts: Iterable[str], between: str = ", ") -> Self:
        """With `between` in between, which is Chinese in Chinese where it is ", ", "; ", " and ", " or " or " "."""
        values = {f"part{number}": part for number, part in enumerate(parts)}
        made = super().__new__(cls, between.join(f"{{{name}}}" for name in values), **values)
        made._template = between
        return made

    def shown(self, catalogue: gettext.NullTranslations) -> str:
        """Out of a catalogue."""
        between = _BETWEEN.get(self._template, self._template) if _is_chinese(catalogue) else self._template
        return between.join(_value(value, catalogue) for value in self._values.values())


def shortened(parts: Sequence[str], most: int, between: str = "; ") -> Listed:
    """The first so many of the parts, and how many more there are."""
    more = [Message("and {num} more", num=len(parts) - most)] if len(parts) > most else []
    return Listed([*parts[:most], *more], between)


def _is_chinese(catalogue: gettext.NullTranslations) -> bool:
    return type(catalogue) is not gettext.NullTranslations


def columns_of(text: str) -> int:
    """Columns of a terminal that a text takes: a Chinese character has two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _value(value: Any, catalogue: gettext.NullTranslations) -> Any:
    """What stands at a place: a message or the text of an error in the language, all else as it is."""
    if isinstance(value, Exception) and len(value.args) == 1 and isinstance(value.args[0], str):
        return _said(value.args[0], catalogue)
    return value.shown(catalogue) if isinstance(value, Message) else value


def _made_again(cls: type[Message], template: str, values: dict[str, Any]) -> Message:
    """For `pickle` and `copy`."""
    return cls(values.values(), template) if issubclass(cls, Listed) else cls(template, **values)


def of_machine() -> str:
    """What `YANGTUO_LANG` says, else the locale: "zh" for Chinese of any kind, else "en"."""
    asked = os.environ.get(VARIABLE, "").lower()
    if asked in LANGUAGES:
        return asked
    words = [os.environ.get(name, "") for name in _OF_LOCALE]
    spoken = next(filter(None, words), None) or locale.getlocale()[0] or ""  # Windows has no such variables
    return "zh" if spoken.lower().startswith(("zh", "chinese")) else "en"


def taken_from(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--lang` among the words of a command line, and the words without it.

    Returns:
        The last value as it was given, None without any, also where a value is missing.
    """
    asked, rest = None, []
    left = iter(words)
    for word in left:
        if word == "--lang":
            asked = next(left, "")
        elif word.startswith("--lang="):
            asked = word.removeprefix("--lang=")
        else:
            rest.append(word)
    return asked, rest


@cache
def _catalogue() -> gettext.NullTranslations:
    return gettext.translation(DOMAIN, FOLDER, languages=["zh"])
