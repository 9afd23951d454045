#!/usr/bin/env python3
"""Collect the messages of the program into the Chinese catalogue, and compile it.

    python scripts/catalogue.py            add new messages, mark those that are gone, compile; says what has no Chinese
    python scripts/catalogue.py --check    change nothing; exit code 1 where the catalogue is not of today's messages

Messages are: what stands in `tr("...")`, `Message("...")` or `gettext_noop("...")`; the text of an error, as in
`UsageError("...")`; the first argument of `logger.info`, `.warning` and `.error`; every sentence of help. Translate in
src/yangtuo/locale/zh/LC_MESSAGES/yangtuo.po, then run it again.
"""

import argparse
import ast
import datetime
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from yangtuo import cli, errors
from yangtuo.config.options import OPTIONS
from yangtuo.config.parser import build_parser
from yangtuo.config.words import Parser

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "yangtuo"
PO = SOURCE / "locale" / "zh" / "LC_MESSAGES" / "yangtuo.po"
_MARKS = ("tr", "Message", "gettext_noop")
_ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
_NO_DATE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_LOGGED = ("info", "warning", "error")
_PLACES = re.compile(r"%[.\d]*[sdfg]|{[^}]*}")  # a message of places alone has nothing to translate


def messages() -> dict[str, list[str]]:
    """Each message with the places where it stands, as file names from the package's folder."""
    found: dict[str, list[str]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        for text in _in_code(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(text, []).append(path.relative_to(SOURCE).as_posix())
    for text in _of_help():
        found.setdefault(text, []).append("help")
    return {text: sorted(set(places)) for text, places in sorted(found.items(), key=lambda pair: (pair[1], pair[0]))}


def _in_code(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        first, function = node.args[0], node.func
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            continue
        is_marked = isinstance(function, ast.Name) and (function.id in _MARKS or function.id in _ERRORS)
        is_logged = (
            isinstance(function, ast.Attribute)
            and function.attr in _LOGGED
            and isinstance(function.value, ast.Name)
            and function.value.id == "logger"
        )
        if (is_marked or is_logged) and any(map(str.isalpha, _PLACES.sub("", first.value))):
            yield first.value


def _of_help() -> Iterator[str]:
    """Sentences on verbs, arguments and options, and names of groups; those of transformers stay its own.

    Of an option of transformers that has no sentence of ours, what is done with it, for the page of the command line.
    """
    yield cli._HELP
    for option in OPTIONS.values():
        yield from filter(None, [option.help or option.reason, option.group])
    for verb in cli.VERBS:
        module = cli.module_of(verb)
        if verb in cli.OF_A_RUN:
            parser: argparse.ArgumentParser = build_parser(verb, module.add_options, module.__doc__)
        else:
            parser = Parser(verb, description=module.__doc__)
            module.add_options(parser)
        yield from _of_parser(parser)


def _of_parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    if parser.description:
        yield parser.description.strip()
    for action in parser._actions:
        if action.option_strings and action.help and not action.help.startswith("now --"):
            yield action.help
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (one.help for one in action._choices_actions if one.help)
            for below in action.choices.values():
                yield from _of_parser(below)
        elif not action.option_strings and action.help:
            yield action.help


def updated(catalogue: Catalog, found: dict[str, list[str]]) -> Catalog:
    """The catalogue with today's messages; translations stay, also those of messages that are gone, as obsolete."""
    new = Catalog(locale="zh_CN", project="yangtuo", charset="utf-8", fuzzy=False)
    new.header_comment = "# The program's messages in Chinese; scripts/catalogue.py collects and compiles them."
    for text, places in found.items():
        there = catalogue.get(text)
        translation = there.string if there and not there.fuzzy else ""
        new.add(text, translation, locations=[(place, None) for place in places])
    return new


def text_of(catalogue: Catalog) -> bytes:
    """As a .po file, without what changes by itself."""
    file = io.BytesIO()
    write_po(
        file, catalogue, width=110, omit_header=False, sort_output=False, ignore_obsolete=True, include_lineno=False
    )
    changing = ('"POT-Creation-Date', '"PO-Revision-Date', '"Generated-By')
    kept = [line for line in file.getvalue().decode().split("\n") if not line.startswith(changing)]
    return "\n".join(kept).encode()


def compiled(catalogue: Catalog) -> bytes:
    """As a .mo file, of the messages that have Chinese."""
    file = io.BytesIO()
    catalogue.creation_date = catalogue.revision_date = _NO_DATE  # else the minute in which it was read is in the file
    write_mo(file, catalogue)
    return file.getvalue()


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    there = read_po(io.BytesIO(PO.read_bytes()), locale="zh_CN") if PO.is_file() else Catalog(locale="zh_CN")
    new = updated(there, messages())
    po, mo = text_of(new), compiled(read_po(io.BytesIO(text_of(new)), locale="zh_CN"))
    missing = [message.id for message in new if message.id and not message.string]
    if asked.check:
        is_stale = not PO.is_file() or po != PO.read_bytes() or mo != PO.with_suffix(".mo").read_bytes()
        if is_stale or missing:
            print(f"stale: {is_stale}; without Chinese: {len(missing)}; run python scripts/catalogue.py")
        return int(is_stale or bool(missing))
    PO.parent.mkdir(parents=True, exist_ok=True)
    PO.write_bytes(po)
    PO.with_suffix(".mo").write_bytes(mo)
    print(f"{len(new)} messages, {len(missing)} without Chinese")
    for text in missing[:10]:
        print(f"  {text!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
