"""The published prompts of C-Eval and CMMLU, and the letter in an answer to them."""

import re
import unicodedata
from collections.abc import Sequence

from yangtuo.evaluation.choice_files import LETTERS, ChoiceQuestion
from yangtuo.evaluation.choice_subjects import CEVAL, subject_of
from yangtuo.i18n import Message

_HEADS = {
    "ceval": "以下是中国关于{}考试的单项选择题，请选出其中的正确答案。\n\n",
    "cmmlu": "以下是关于{}的单项选择题，请直接给出正确答案的选项。\n\n",
}
_L = r"(?<![A-Za-z])([ABCD])(?![A-Za-z])"  # a letter by itself; that in "DNA" is none
# In this order; of C-Eval's scripts and of CMMLU's extract_choice, without what also matches "not correct".
_SINGLE = tuple(
    re.compile(pattern.replace("L", _L))
    for pattern in (
        r"答案(?:选项)?(?:应该|应当|应)?(?:是|为|选):? ?(?:选项)? ?L",
        r"答案(?:选项)?:? ?L",
        r"(?<!不)(?:故|应该|应|只能)?选(?:择)?(?:答案|选项|项)?:? ?L(?!项?(?:不正确|不对|错))",
        r"L ?选?项?(?:是|为)?正确",
        r"正确的?(?:答案|选项|说法)?(?:是|为):? ?(?:选项)? ?L",
        r"L ?(?:选?项)?是?符合题意",
        r"答案(?:选项)?为[^。\n]*?L",
    )
)
_LAST = tuple(re.compile(pattern.replace("L", _L)) for pattern in (r"L[^ABCD。\n]*?当选", r"L[^ABCD不。\n]*?正确"))
_WEAK = re.compile(r"[^不]是:? ?L".replace("L", _L))
_SO = re.compile(r"所以答案是 ?L ?。".replace("L", _L))
_AT_START = re.compile(r"[(\[ ]*L(?! ?选?项?是?(?:不|错)| ?[和或与及、/,] ?[ABCD])".replace("L", _L))
_DENIED = re.compile("不选|排除|不正确|不对|不是|错误")
_ALONE = re.compile(r"\W*([A-Da-d])\W*")


def prompt(question: ChoiceQuestion, exemplars: Sequence[ChoiceQuestion] = ()) -> str:
    """The text behind which the letter of the answer follows.

    Args:
        question: asked last, without its answer.
        exemplars: asked and answered before it, in this order; of the dev split, at most five by custom.

    Raises:
        ValueError: an exemplar without an answer.

    Source: code/evaluator_series/evaluators/llama.py of C-Eval, src/mp_utils.py of CMMLU.
    """
    head = _HEADS[question.benchmark].format(subject_of(question.benchmark, question.subject).chinese)
    for exemplar in exemplars:
        if exemplar.answer is None:
            raise ValueError(
                Message(
                    "exemplar {number} of {subject} has no answer", number=exemplar.number, subject=exemplar.subject
                )
            )
        head += f"{_asked(exemplar)}{exemplar.answer}\n\n"
    return head + _asked(question)


def answer_letter(generated_text: str, options: Sequence[str] = ()) -> str | None:
    """Which option an answer names: A, B, C or D, or None where it names none or several; it is never guessed.

    In this order: an option's whole text, or a letter and nothing else; a letter at the start, unless all four are
    named; 所以答案是 A, the last one; 答案是 A, 选 A, A 正确, 正确答案是 A and the like, the first rule that
    fits; the last letter before 当选 or 正确; 是 A; the only letter that is named, unless something is denied;
    the only option whose text is in the answer.

    Args:
        generated_text: what the model wrote behind the prompt.
        options: the texts of A to D; none where they are not to be looked for.

    Source: extract_cot_answer of C-Eval and extract_choice of CMMLU, which return a random letter where nothing fits.
    """
    text = unicodedata.normalize("NFKC", generated_text).strip()
    texts = [unicodedata.normalize("NFKC", option).strip() for option in options]
    if text and texts.count(text.rstrip("。.")) == 1:
        return LETTERS[texts.index(text.rstrip("。."))]
    alone = _ALONE.fullmatch(text)
    if alone:
        return alone[1].upper()
    named = set(re.findall(_L, text))
    at_start = _AT_START.match(text) if len(named) < len(LETTERS) else None  # else it may be a list of the options
    found = at_start or _last(_SO, text) or _first(text) or _last_of(text) or _WEAK.search(text)
    if found:
        return str(found[1])
    if named:
        return named.pop() if len(named) == 1 and not _DENIED.search(text) else None
    held = [letter for letter, option in zip(LETTERS, texts, strict=False) if option and option in text]
    return held[0] if len(held) == 1 else None


def _asked(question: ChoiceQuestion) -> str:
    begin, end = ("", "答案：") if question.benchmark == CEVAL else ("题目：", "答案是：")
    options = "".join(f"\n{letter}. {text}" for letter, text in zip(LETTERS, question.options, strict=True))
    return f"{begin}{question.question}{options}\n{end}"


def _first(text: str) -> re.Match[str] | None:
    return next((found for pattern in _SINGLE if (found := pattern.search(text))), None)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = list(pattern.finditer(text))
    return found[-1] if found else None


def _last_of(text: str) -> re.Match[str] | None:
    return next((found for pattern in _LAST if (found := _last(pattern, text))), None)
