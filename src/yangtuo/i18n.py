"""The language of what a person reads: English as it stands in the code, or Chinese out of one gettext catalogue.

What `tr` is given is a whole sentence with named places, filled in by `str.format` afterwards, so that Chinese may put
them in another order; a log line is translated where it is shown, and its places are those of `%`. Files, JSON keys
and `run.json`'s notes stay English. `scripts/catalogue.py` collects the messages; the catalogue lies in `locale/`.
"""

import gettext
import locale
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

LANGUAGES = ("zh", "en")
VARIABLE = "YANGTUO_LANG"
DOMAIN, FOLDER = "yangtuo", Path(__file__).with_name("locale")
_OF_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")  # the first that is set decides, as gettext has it

_chosen: gettext.NullTranslations = gettext.NullTranslations()


def use(language: str) -> None:
    """Speak this language, "zh" or "en", from now on."""
    global _chosen
    _chosen = _catalogue() if language == "zh" else gettext.NullTranslations()


def tr(message: str) -> str:
    """The message in the chosen language; itself where the catalogue does not have it."""
    return _chosen.gettext(message) if message else message


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
