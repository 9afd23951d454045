"""Checks on the words of a command line: options given twice, names that are misspelt, bytes that are no text.

Chats, web pages and Chinese input methods turn `--` into a dash, and `=` and `,` into full-width signs.
"""

import argparse
import contextlib
import difflib
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from yangtuo.config.help import verb_help
from yangtuo.config.other_tools import OTHER_NAMES, elsewhere
from yangtuo.errors import UsageError
from yangtuo.i18n import Listed, Message, gettext_noop
from yangtuo.output import is_text

logger = logging.getLogger(__name__)

_DASHES = "‐‑‒–—―−"
_WIDE = (  # signs of Chinese input methods, what they are, and what is typed in their place
    ("“”", Message("a full-width quote"), '"'),
    ("‘’", Message("a full-width quote"), "'"),
    ("，", Message("a full-width comma"), ","),
    ("、", Message("a Chinese comma"), ","),
    ("：", Message("a full-width colon"), ":"),
    ("；", Message("a full-width semicolon"), ";"),
    ("－﹣", Message("a full-width hyphen"), "-"),
    (_DASHES, Message("a dash"), "-"),
    ("\u3000", Message("a full-width space"), " "),
)
_QUOTES = "“”‘’"
_AS_ASCII = str.maketrans({sign: ascii_ for signs, _, ascii_ in _WIDE for sign in signs})
_FREE_TEXTS = ("system_prompt", "ask", "columns")  # what a person says, and what has a reader of its own
_NEAR = 0.85  # as difflib counts; one letter in seven
_NEAR_PATH = 0.75
_LEAST_PREFIX = 3
_MOST_NAMED = 4


def plain(word: str) -> str:
    """The word with ASCII in place of dashes and full-width signs."""
    return unicodedata.normalize("NFKC", word.translate(_AS_ASCII))


def nearest(word: str, known: Collection[str], cutoff: float = _NEAR) -> list[str]:
    """The known words that this is a slip or the begin of; none where there is nothing near.

    Dashes in front and capitals do not count, and `-` is as good as `_`. `cutoff` is how like it a word has to be, as
    difflib counts, from 0 to 1.
    """
    bare: dict[str, str] = {}
    for one in known:
        bare.setdefault(_bare(one), one)
    meant = _bare(plain(word))
    if meant in bare:
        return [bare[meant]]
    longer = [one for one in bare if len(meant) >= _LEAST_PREFIX and one.startswith(meant)]
    if longer:
        return [bare[one] for one in longer] if len(longer) <= _MOST_NAMED else []
    swapped = [one for i in range(len(meant) - 1) if (one := _swapped(meant, i)) in bare]
    return [bare[one] for one in swapped or difflib.get_close_matches(meant, bare, n=1, cutoff=cutoff)]


def did_you_mean(word: str, known: Collection[str], otherwise: str, *, cutoff: float = _NEAR) -> str:
    """`did you mean ...?` where there is something near, else what is said in its place."""
    near = nearest(word, known, cutoff)
    return Message("did you mean {near}?", near=Listed(map(repr, near), " or ")) if near else otherwise


def wide_signs(value: str) -> list[str]:
    """What is said of a value's signs that are not those of ASCII, a text for each kind."""
    return [
        Message("{there!r} is {name}, type {ascii!r}", there="".join(there), name=name, ascii=ascii_)
        for signs, name, ascii_ in _WIDE
        if (there := [sign for sign in signs if sign in value])
    ]


def near_path(path: str) -> Iterator[str]:
    """What was probably meant by a path that is not there: one of nearly the same name; or a script's placeholder."""
    if path.startswith("path/to"):
        yield Message("the script still has its placeholder")
        return
    place = Path(os.path.expanduser(path))
    with contextlib.suppress(OSError, ValueError):  # no such folder either, or no name at all
        others = [other.name for other in place.absolute().parent.iterdir()]
        if near := difflib.get_close_matches(place.name, others, n=1, cutoff=_NEAR_PATH):
            yield Message("did you mean {meant!r}?", meant=str(Path(path).with_name(near[0])))


def of_missing_path(text: str, path: str) -> str:
    """A message on a path that is not there, with what was probably meant and what is said of its signs."""
    return Listed([text, *near_path(path), *wide_signs(path)], "; ")


def with_signs(text: str, value: str) -> str:
    """A message on a value in which nothing was found, and what is said of its signs."""
    return Listed([text, *wide_signs(value)], "; ")


def signs_in_ascii(value: str) -> str:
    """The value with ASCII's quotes, commas, colons and hyphens, and its letters as they are."""
    return value.translate(_AS_ASCII)


def value_meant(value: str) -> str | None:
    """A value that has full-width signs or a dash where ASCII was probably meant, in ASCII; None for others."""
    meant = plain(value).strip("\"'")
    return meant if meant != value and meant.isascii() else None


def in_wide_quotes(given: Mapping[str, Any]) -> Iterator[str]:
    """What is said of options, each with its value, that stand in quotes which are none to a shell or to YAML."""
    for name, value in given.items():
        for word in value if isinstance(value, list) else [value]:
            if not isinstance(word, str) or not word or _bare(name) in _FREE_TEXTS:
                continue
            is_quoted = word[0] in _QUOTES or word[-1] in _QUOTES
            if is_quoted and not any(map(os.path.exists, word.split(","))):
                yield Message(
                    "{name} {word}: {signs}, or leave the quotes out: {without}",
                    name=name,
                    word=word,
                    signs=Listed(wide_signs(word), "; "),
                    without=word.strip(_QUOTES),
                )


def not_text(given: Mapping[str, Any]) -> Iterator[str]:
    """What is said of options, each with its value, that are no text in the encoding of this machine."""
    encoding = sys.getfilesystemencoding().upper()
    advice = (
        Message("rename the file or folder of this name")
        if encoding == "UTF-8"
        else Message("set LC_ALL=C.UTF-8, or PYTHONUTF8=1")
    )
    for name, value in given.items():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and not is_text(word):
                yield Message(
                    "{name} {word!r}: not {encoding}; {advice}", name=name, word=word, encoding=encoding, advice=advice
                )


def _swapped(word: str, i: int) -> str:
    return word[:i] + word[i + 1] + word[i] + word[i + 2 :]


def _bare(option: str) -> str:
    return option.lstrip("-").replace("-", "_").lower()


# What argparse says, of Python 3.11 to 3.13.
_OF_ARGPARSE = (
    gettext_noop("the following arguments are required: {names}"),
    gettext_noop("argument {name}: expected one argument"),
    gettext_noop("argument {name}: expected at least one argument"),
    gettext_noop("argument {name}: invalid choice: {value} (choose from {known})"),
    gettext_noop("argument {name}: invalid {kind} value: {value}"),
)


def _of_argparse(message: str) -> str:
    for template in _OF_ARGPARSE:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>.*?)", re.escape(template))
        if found := re.fullmatch(pattern, message, re.DOTALL):
            return Message(template, **found.groupdict())
    return message


class Parser(argparse.ArgumentParser):
    """argparse that raises our error, one line, instead of printing how it is used.

    Attributes:
        is_short: whether its help is, so that a wrong value is answered with it.
        doubled: options that were given twice with different values, of the last command line.
    """

    is_short = True

    def __init__(self, prog: str, **options: Any):
        super().__init__(prog, allow_abbrev=False, **options)
        self.register("action", None, _Once)
        self.register("action", "store_false", _OnceFalse)
        self.doubled: list[str] = []
        self._given: dict[str, tuple[str, Any]] = {}

    def format_help(self) -> str:
        """In the form that all verbs have."""
        return verb_help(self.prog, self.description, [a for a in self._actions if a.dest != "help"])

    def error(self, message: str) -> NoReturn:
        """Raise it, with what was probably meant."""
        quoted = re.search(r": '([^']+)'", message)
        meant = value_meant(quoted[1]) if quoted else None
        told = [_of_argparse(message)]
        if quoted and meant:
            told += [*wide_signs(quoted[1]), Message("did you mean {meant!r}?", meant=meant)]
        elif self.is_short:
            told.append(Message("{prog} --help lists the options", prog=self.prog))
        raise UsageError("{prog}: {told}", prog=self.prog, told=Listed(told, "; "))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse; words that look like an option and are none are refused first.

        Raises:
            UsageError: all of those.
        """
        self.doubled, self._given = [], {}
        known = self.known_options()
        wrong = [problem for word in args if (problem := _not_ascii(word, known))]
        if wrong:
            raise UsageError.of_problems(self.prog, wrong)
        return super().parse_known_args(args, namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse.

        Raises:
            UsageError: everything that is unknown or no text.
        """
        # Before anything else: its value may have gone to a positional argument, which would be blamed.
        known = self.known_options()
        words = args[: args.index("--")] if "--" in args else args
        wrong = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
        if wrong and not any(_not_ascii(word, known) for word in wrong):
            raise UsageError.of_problems(self.prog, list(self.unknown(wrong)))
        found, unknown = self.parse_known_args(args, namespace)
        tell_doubled(told for one in self._family() for told in one.doubled)
        problems = list(self.unknown(unknown))
        names = {action.dest: _name(action) for one in self._family() for action in one._actions}
        values = {names.get(dest, dest): value for dest, value in vars(found).items()}
        problems += [*not_text(values), *in_wide_quotes(values)]
        if problems:
            raise UsageError.of_problems(self.prog, problems)
        return found

    def unknown(self, words: Sequence[str]) -> Iterator[str]:
        """What is said of words that no option takes."""
        for before, word in zip(["", *words], words, strict=False):
            if word.startswith("-"):
                name = word.split("=")[0]
                known = self.known_options()
                slips = [] if nearest(name, known) else nearest(name, OTHER_NAMES)
                hints = filter(None, (elsewhere(one, known) for one in (name, *slips)))
                hint = next(hints, None) or did_you_mean(
                    name, known, Message("{prog} --help lists the options", prog=self.prog)
                )
                yield Message("unknown option {name!r}; {hint}", name=name, hint=hint)
            elif not before.startswith("-") or "=" in before:  # else it is the value of that one
                yield Message(
                    "{word!r} belongs to no option; in a shell script, a comment or a space behind a line's "
                    "closing backslash cuts the command there",
                    word=word,
                )

    def known_options(self) -> list[str]:
        """Every option, of sub-commands too."""
        return [option for one in self._family() for action in one._actions for option in action.option_strings]

    def note(self, dest: str, option: str, value: Any) -> None:
        """Keep what was given, and what it overrides."""
        if dest in self._given and self._given[dest][1] != value:
            first, former = self._given[dest]
            self.doubled.append(
                Message(
                    "{first} {former} and {option} {value}",
                    first=first,
                    former=_shown(former),
                    option=option,
                    value=_shown(value),
                )
            )
        self._given[dest] = option, value

    def _family(self) -> Iterator["Parser"]:
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()


def tell_doubled(doubled: Iterable[str]) -> None:
    """Say which value counts. A script's options are often followed by those of whoever calls it, as in `"$@"`."""
    for told in doubled:
        logger.warning("%s: the last one counts", told)


class _Once(argparse.Action):
    """Stores a value, as argparse does by itself, and notes one that overrides an earlier one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        value = self.const if self.nargs == 0 else values
        if option_string:
            parser.note(self.dest, option_string, value)
        setattr(namespace, self.dest, value)


class _OnceFalse(_Once):
    def __init__(self, **how: Any):
        super().__init__(nargs=0, const=False, **how)


def _name(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _not_ascii(word: str, known: Collection[str]) -> str | None:
    """What is said of a word that would be an option, were it written in ASCII."""
    name = f"--{plain(word).lstrip('-').partition('=')[0]}"
    written = word.partition("=")[0]
    if written == name or not re.match(rf"[-{_DASHES}－﹣]", word) or not re.fullmatch(r"--\w[\w-]*", name, re.ASCII):
        return None
    odd = "".join(dict.fromkeys(letter for letter in written if letter != plain(letter)))
    hint = did_you_mean(name, known, "")
    return (
        Message(
            "unknown option {written!r}, which is not all ASCII ({odd}); {hint}", written=written, odd=odd, hint=hint
        )
        if odd and hint
        else None
    )
