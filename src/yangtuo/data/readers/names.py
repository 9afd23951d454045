"""What columns are called in other data: pairs of a question and its answer that are known without `--columns`."""

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

# Of the second and third, only where there is none of those before.
_QUESTIONS = (
    ("instruction", "question", "query", "prompt", "problem", "ask", "问题", "提问", "问", "问句", "指令", "题目"),
    ("user", "human", "q", "用户"),
    ("input",),
)
_ANSWERS = (
    (
        *("output", "answer", "response", "completion", "target", "reply", "solution"),
        *("回答", "答案", "答", "答复", "回复", "输出"),
    ),
    ("assistant", "bot", "gpt", "a", "助手"),
)
_SYSTEMS = ("system_prompt", "系统提示", "系统提示词")
# Beside a question and an answer, they change what is meant: what the answer is about, or how it was thought of.
_MATERIAL = ("context", "passage", "document", "reference", "背景", "上下文", "材料", "参考")
_THOUGHTS = ("cot", "complex_cot", "chain_of_thought", "rationale", "思考", "思维链", "推理")
# Questions and answers only where nothing else is there.
_LOOSE = (("title", "content"), ("标题", "内容"), ("title", "desc"), ("标题", "正文"), ("标题", "描述"))
_ASIDE = ("id", "uid", "url", "source", "lang", "language", "category", "dataset", "date", "meta")
_LIKE_QUESTIONS = ("问", "题", "quest", "ask", "query", "prompt", "user", "instr")
_LIKE_ANSWERS = ("答", "回", "answ", "resp", "repl", "outp", "compl", "assist")


def pair_of(row: Mapping[str, Any]) -> dict[str, str]:
    """Field by column, where it is plain which column is the question and which the answer; else nothing."""
    plain = _plain(row)
    questions, answers = _first_of(_QUESTIONS, plain), _first_of(_ANSWERS, plain)
    if not questions and not answers:
        return _loose(row, plain)
    is_dolly = "instruction" in plain and "context" in plain
    inputs = ("input", "输入", "context") if is_dolly else ("input", "输入")
    beside = [plain[name] for name in (*_MATERIAL, *_THOUGHTS) if name in plain and name not in inputs]
    if len(questions) != 1 or len(answers) != 1 or any(row[column] not in (None, "") for column in beside):
        return {}
    found = {questions[0]: "instruction", answers[0]: "output"}
    for field, known in (("system", _SYSTEMS), ("input", inputs)):
        columns = [plain[name] for name in known if name in plain and plain[name] not in found]
        if len(columns) == 1 and field not in row:
            found[columns[0]] = field
    return found


def said(item: Mapping[str, Any]) -> tuple[str, str] | None:
    """Which keys of an item of a dialogue are the question and the answer."""
    plain = _plain(item)
    questions, answers = _first_of(_QUESTIONS, plain), _first_of(_ANSWERS, plain)
    return (questions[0], answers[0]) if len(questions) == len(answers) == 1 else None


def are_names(cells: Iterable[str]) -> bool:
    """Whether all cells of a line are names of columns that are known."""
    known = {*chain(*_QUESTIONS, *_ANSWERS), "messages", "conversations"}
    return all(cell.strip().lower() in known for cell in cells)


def field_of(name: str) -> str | None:
    """What a field of another tool is here."""
    if name.lower() in chain(*_QUESTIONS):
        return "instruction"
    return "output" if name.lower() in chain(*_ANSWERS) else None


def guess(row: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Columns that are the question and the answer by their names, or may be."""
    plain, texts = _plain(row), _texts(row)
    questions = [*_first_of(_QUESTIONS, plain), *(key for key in texts if _has(key, _LIKE_QUESTIONS))]
    loose = next((pair for pair in _LOOSE if plain.keys() >= set(pair)), None)
    if loose and not _first_of(_QUESTIONS, plain) and not _first_of(_ANSWERS, plain):
        return plain[loose[0]], plain[loose[1]]
    question = next(iter(questions), None)
    answers = [*_first_of(_ANSWERS, plain), *(key for key in texts if _has(key, _LIKE_ANSWERS))]
    return question, next((key for key in answers if key != question), None)


def proposal(row: Mapping[str, Any]) -> str:
    """The option that would probably be right for rows like this one."""
    plain, texts = _plain(row), _texts(row)
    question, answer = guess(row)
    left = [key for key in texts if key not in (question, answer)]
    question = question or (left.pop(0) if left else "COLUMN OF THE QUESTION")
    answer = answer or (left.pop() if left else "COLUMN OF THE ANSWER")
    fields: dict[str, str | None] = {question: "instruction"}
    fields |= {plain[name]: "input" for name in _MATERIAL if name in plain and plain[name] in left[:1]}
    fields |= {plain[name]: None for name in _THOUGHTS if name in plain and plain[name] in left}
    return option(fields | {answer: "output"})


def is_text_alone(row: Mapping[str, Any]) -> bool:
    """Whether a row is one text."""
    return _texts(row) == ["text"]


def option(fields: Mapping[str, str | None]) -> str:
    """`--columns` as it is typed."""
    return f"--columns '{json.dumps(fields, ensure_ascii=False)}'"


def _texts(row: Mapping[str, Any]) -> list[str]:
    return [key for key, value in row.items() if isinstance(value, str) and key.lower() not in _ASIDE]


def _plain(row: Mapping[str, Any]) -> dict[str, str]:
    return {key.strip().lower(): key for key in row}


def _first_of(tiers: Iterable[Iterable[str]], plain: Mapping[str, str]) -> list[str]:
    """The row's own keys for the names of the first tier that it has any of."""
    return next((there for names in tiers if (there := [plain[name] for name in names if name in plain])), [])


def _loose(row: Mapping[str, Any], plain: Mapping[str, str]) -> dict[str, str]:
    texts = {key.strip().lower() for key in _texts(row)}
    for question, answer in _LOOSE:
        if texts == {question, answer}:
            return {plain[question]: "instruction", plain[answer]: "output"}
    return {}


def _has(key: str, parts: Iterable[str]) -> bool:
    return any(part in key.lower() for part in parts)
