"""Writes docs/cli.md and docs/cli.zh.md from the table of options and the parsers of the verbs.

python scripts/cli_reference.py
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from yangtuo.cli import OF_A_RUN, VERBS, module_of
from yangtuo.config.old_options import GONE, RENAMED, WITHOUT_EFFECT
from yangtuo.config.options import OPTIONS, Option
from yangtuo.config.parser import build_parser
from yangtuo.config.trainer_options import RARE, ArgHandling
from yangtuo.config.words import Parser

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
        "theirs": "as in transformers",
    },
    "zh": {
        "title": "# 命令行参考",
        "intro": (
            "本页由 `scripts/cli_reference.py` 根据选项表生成，各选项的说明为英文原文。终端里 `yangtuo VERB --help` "
            "显示同样的内容；`yangtuo train --help all` 还有 transformers 对自己选项的说明。"
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
        "theirs": "与 transformers 相同",
    },
}
_OF_A_RUN = {*OPTIONS, *RENAMED, *WITHOUT_EFFECT, *GONE}
_GROUPS_ZH = {
    "base model and tokenizer": "基座模型与分词器",
    "data": "数据",
    "LoRA": "LoRA 的选项",
    "the run": "训练过程",
    "steps and optimizer": "步数与优化器",
    "evaluation": "验证",
    "output folder, checkpoints, logs": "输出目录、checkpoint、日志",
    "precision, memory, several GPUs": "精度、显存、多卡",
    RARE: "很少用到",
}
_VERBS_ZH = {
    "train": "训练一个 LoRA，或继续训练已有的 LoRA。",
    "check": "这次会训练什么：数量、长度、损耗、问题、内存、结论；不加载权重。",
    "preview": "显示模型看到的数据：提示、参与训练的 token、结束符，彩色显示或写成网页。",
    "encode": "把训练看到的 token id 和标签写成 JSON，一行一条。",
    "chat": "用训练时的模板与模型对话或提问；也可以把基座模型与训练后的回答并排显示。",
    "generate": "批量回答一个文件里的问题，写入另一个文件；中断后同样的命令接着做。",
    "eval": "评测模型：自己的数据、通用能力、选择题；比较基座模型与训练后的模型，并给出结论。",
    "report": "把一次训练写成一页网页；给出多个目录则并排比较。",
    "merge": "把 LoRA 合并进基座模型，并证明结果是同一个模型。",
    "export": "合并，并写出 Ollama、vLLM、llama.cpp 所需的文件，使它们的提问方式与训练时一致。",
    "check-deploy": "把正在运行的服务与训练比较：提示的 id、贪心解码的回答。",
    "vocab": "把词表并入 LLaMA 的词表、扩大模型、训练词表、测量。",
    "doctor": "这台机器能不能训练：版本、GPU、磁盘、各种限制、环境变量，每一项都写明怎么解决。",
    "cache": "`yangtuo cache list|clear`：查看或清理这台机器上保留的编码结果。",
    "demo": "用真实的中文数据精调真实的 135M 参数的 LLaMA，任何机器上几分钟，并显示有什么变化。",
}


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
        yield f"### {_GROUPS_ZH[group] if language == 'zh' else group[0].upper() + group[1:]}"
        rows = [f"| `--{o.name}` | {_default(o.default)} | {_meaning(o, texts['theirs'])} |" for o in groups[group]]
        yield "\n".join([texts["heads"], "|---|---|---|", *rows])
    yield texts["refused"]
    yield texts["refused_about"]
    yield "\n".join([texts["refused_heads"], "|---|---|", *(f"| `--{o.name}` | {_cell(o.reason)} |" for o in refused)])


def _verb(verb: str, language: str) -> Iterator[str]:
    texts, module = _TEXTS[language], module_of(verb)
    yield f"## yangtuo {verb}"
    about = " ".join((module.__doc__ or "").split("\n\n")[0].split()).removeprefix(f"`yangtuo {verb}`: ")
    yield _VERBS_ZH[verb] if language == "zh" else about[0].upper() + about[1:]
    if verb in OF_A_RUN:
        parser = build_parser(f"yangtuo {verb}", module.add_options)
        own = [one for one in _shown(parser) if one.dest not in _OF_A_RUN and one.option_strings]
        yield texts["own"] if own else texts["none"]
        if own:
            yield _table(own, texts["own_heads"])
        return
    parser = Parser(f"yangtuo {verb}")
    module.add_options(parser)
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield _table(_shown(parser), texts["own_heads"])
    for name, sub in (item for action in below for item in action.choices.items()):
        yield f"### yangtuo {verb} {name}"
        yield _table(_shown(sub), texts["own_heads"]) if _shown(sub) else texts["none"]


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its arguments and options that a person may give, without --help and old names."""
    return [one for one in parser._actions if one.dest != "help" and one.help not in (None, argparse.SUPPRESS)]


def _table(actions: Sequence[argparse.Action], heads: str) -> str:
    names = dict.fromkeys(_name(action) for action in actions)
    first = {name: next(one for one in actions if _name(one) == name) for name in names}
    rows = [f"| `{name}` | {_cell(_sentence(action))} |" for name, action in first.items()]
    return "\n".join([heads, "|---|---|", *rows])


def _name(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def _sentence(action: argparse.Action) -> str:
    words = f" One of: {', '.join(map(str, action.choices))}." if action.choices and action.option_strings else ""
    return f"{(action.help or '') % vars(action)}{words}"


def _meaning(option: Option, theirs: str) -> str:
    text = option.help or (option.reason and f"{option.reason[0].upper()}{option.reason[1:]}.") or theirs
    words = f" One of: {', '.join(option.choices)}." if option.choices else ""
    return _cell(f"{text}{words}")


def _default(value: object) -> str:
    return "" if value in (None, "", False) else f"`{value}`"


def _cell(text: str) -> str:
    """A text as Markdown shows it in a table; names of options stand as code."""
    text = re.sub(r"([*<>|])", r"\\\1", " ".join(text.split()))
    parts = re.split(r"('\{.*?\}'|\{.*?\}|(?<![\w-])--[A-Za-z]\w*)", text)
    return "".join(f"`{part}`" if i % 2 else part for i, part in enumerate(parts))


if __name__ == "__main__":
    for language, name in PAGES.items():
        (DOCS / name).write_text(page(language), encoding="utf-8")
        print(f"written: {DOCS / name}")
