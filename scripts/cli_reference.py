"""Writes docs/cli.md and docs/cli.zh.md from the table of options and the parsers of the verbs.

python scripts/cli_reference.py            write both
python scripts/cli_reference.py --check    change nothing; exit code 1 where one is not of today's options
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from yangtuo.cli import OF_A_RUN, VERBS, module_of
from yangtuo.config.old_options import GONE, RENAMED, WITHOUT_EFFECT
from yangtuo.config.options import OPTIONS, Option
from yangtuo.config.parser import build_parser
from yangtuo.config.trainer_options import RARE, ArgHandling
from yangtuo.config.words import Parser
from yangtuo.i18n import in_chinese

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {"en": "cli.md", "zh": "cli.zh.md"}

_TEXTS = {
    "en": {
        "title": "# Command line",
        "intro": (
            "Made by `scripts/cli_reference.py` from the table of options. `yangtuo VERB --help` says the same at the "
            "terminal; `yangtuo train --help all` also has transformers' own words for its options."
        ),
        "spelling": (
            "Options are spelled `--max_seq_length` or `--max-seq-length`. Switches stand alone or with a value "
            "(`--fp16`, `--fp16 False`); one that is on by default is switched off with `--no_report` or the like. "
            "A file of options comes first (`yangtuo train examples/train.yaml`), and flags override it."
        ),
        "run": "## Options of a run",
        "run_about": (
            "`train`, `check`, `preview` and `encode` take all of these; names of earlier versions are in "
            "[From the scripts of 2023](from-2023.md)."
        ),
        "heads": "| option | default | meaning |",
        "own_heads": "| option | meaning |",
        "own": "Besides the options of a run:",
        "none": "It takes the options of a run, and no others.",
        "refused": "### Not supported",
        "refused_about": (
            "These belong to transformers' `TrainingArguments` and would change the result or do nothing here. Any "
            "value but the default is an error."
        ),
        "refused_heads": "| option | why, and what to do |",
        "theirs": "As in transformers.",
        "stop": ".",
    },
    "zh": {
        "title": "# 命令行参考",
        "intro": (
            "本页由 `scripts/cli_reference.py` 根据选项表生成。终端里 `yangtuo VERB --help` 显示同样的内容；"
            "`yangtuo train --help all` 还有 transformers 对自己选项的说明（英文）。"
        ),
        "spelling": (
            "选项写作 `--max_seq_length` 或 `--max-seq-length`。"
            "开关可以单独写，也可以带值（`--fp16`、`--fp16 False`）；"
            "默认打开的开关用 `--no_report` 这样的写法关闭。"
            "选项文件写在最前面（`yangtuo train examples/train.yaml`），命令行上的值优先。"
        ),
        "run": "## 训练的选项",
        "run_about": (
            "`train`、`check`、`preview` 和 `encode` 都接受以下全部选项；早期版本的名称见"
            "[从 2023 年的脚本迁移](from-2023.md)。"
        ),
        "heads": "| 选项 | 默认值 | 含义 |",
        "own_heads": "| 选项 | 含义 |",
        "own": "除训练的选项之外：",
        "none": "只接受训练的选项，没有别的。",
        "refused": "### 不支持的选项",
        "refused_about": (
            "以下选项属于 transformers 的 `TrainingArguments`，在这里会改变结果或不起作用。取默认值以外的值会报错。"
        ),
        "refused_heads": "| 选项 | 原因，以及怎么办 |",
        "theirs": "与 transformers 相同。",
        "stop": "。",
    },
}
_OF_A_RUN = {*OPTIONS, *RENAMED, *WITHOUT_EFFECT, *GONE}


def page(language: str) -> str:
    """The text of the page, "en" or "zh"."""
    texts = _TEXTS[language]
    parts = [texts["title"], texts["intro"], texts["spelling"], texts["run"], texts["run_about"]]
    parts += _run_options(language)
    for verb in VERBS:
        parts += _verb(verb, language)
    return "\n\n".join(parts) + "\n"


def _run_options(language: str) -> Iterator[str]:
    texts = _TEXTS[language]
    refused = [option for option in OPTIONS.values() if option.handling is ArgHandling.REFUSED]
    groups: dict[str, list[Option]] = {}
    for option in OPTIONS.values():
        if option not in refused:
            groups.setdefault(option.group, []).append(option)
    for group in [*(name for name in groups if name != RARE), RARE]:
        yield f"### {_begin_large(_said(group, language))}"
        rows = [f"| `--{o.name}` | {_default(o.default)} | {_meaning(o, language)} |" for o in groups[group]]
        yield "\n".join([texts["heads"], "|---|---|---|", *rows])
    yield texts["refused"]
    yield texts["refused_about"]
    rows = [f"| `--{o.name}` | {_cell(_reason(o, language))} |" for o in refused]
    yield "\n".join([texts["refused_heads"], "|---|---|", *rows])


def _verb(verb: str, language: str) -> Iterator[str]:
    texts, module = _TEXTS[language], module_of(verb)
    yield f"## yangtuo {verb}"
    about = " ".join(_said((module.__doc__ or "").strip(), language).split("\n\n")[0].split())
    yield _begin_large(re.sub(r"^`yangtuo [^`]+`(: |：)", "", about))
    if verb in OF_A_RUN:
        parser = build_parser(f"yangtuo {verb}", module.add_options)
        own = [one for one in _shown(parser) if one.dest not in _OF_A_RUN and one.option_strings]
        yield texts["own"] if own else texts["none"]
        if own:
            yield _table(own, language)
        return
    parser = Parser(f"yangtuo {verb}")
    module.add_options(parser)
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield _table(_shown(parser), language)
    for name, sub in (item for action in below for item in action.choices.items()):
        yield f"### yangtuo {verb} {name}"
        yield _table(_shown(sub), language) if _shown(sub) else texts["none"]


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its arguments and options that a person may give, without --help and old names."""
    return [one for one in parser._actions if one.dest != "help" and one.help not in (None, argparse.SUPPRESS)]


def _table(actions: Sequence[argparse.Action], language: str) -> str:
    names = dict.fromkeys(_name(action) for action in actions)
    first = {name: next(one for one in actions if _name(one) == name) for name in names}
    rows = [f"| `{name}` | {_cell(_sentence(action, language))} |" for name, action in first.items()]
    return "\n".join([_TEXTS[language]["own_heads"], "|---|---|", *rows])


def _name(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def _sentence(action: argparse.Action, language: str) -> str:
    choices = action.choices if action.option_strings else None
    return f"{_said(action.help or '', language) % vars(action)}{_one_of(choices, language)}"


def _meaning(option: Option, language: str) -> str:
    told = _said(option.help or "", language) or _TEXTS[language]["theirs"]
    if not option.help and option.reason:
        told = f"{_begin_large(_said(option.reason, language))}{_TEXTS[language]['stop']}"
    return _cell(f"{told}{_one_of(option.choices, language)}")


def _reason(option: Option, language: str) -> str:
    """Why an option is refused; the catalogue has the whole sentence, as `--help all` says it."""
    if language == "en":
        return option.reason
    return _said(option.help or "", language).removeprefix("不支持：")


def _said(text: str, language: str) -> str:
    return in_chinese(text) if language == "zh" else text


def _one_of(choices: Iterable[object] | None, language: str) -> str:
    return _said(" One of: {choices}.", language).format(choices=", ".join(map(str, choices))) if choices else ""


def _begin_large(text: str) -> str:
    """With a capital letter, but where a file or a program comes first, whose name stays as it is."""
    is_name = "." in text.split(" ")[0] or text.startswith("torchrun ")
    return text if is_name else text[:1].upper() + text[1:]


def _default(value: object) -> str:
    return "" if value in (None, "", False) else f"`{value}`"


def _cell(text: str) -> str:
    """A text as Markdown shows it in a table; names of options stand as code."""
    text = re.sub(r"([*<>|])", r"\\\1", " ".join(text.split()))
    parts = re.split(r"('\{.*?\}'|\{.*?\}|(?<![\w-])--[A-Za-z](?:[\w-]*\w)?)", text)
    return "".join(f"`{part}`" if i % 2 else part for i, part in enumerate(parts))


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    is_check = parser.parse_args().check
    made = {DOCS / name: page(language) for language, name in PAGES.items()}
    stale = [path for path, text in made.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if is_check:
            print(f"stale: {path}; run python scripts/cli_reference.py")
        else:
            path.write_text(made[path], encoding="utf-8")
            print(f"written: {path}")
    return int(is_check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
