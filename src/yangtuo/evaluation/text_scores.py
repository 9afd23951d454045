"""How near generated answers are to references: exact match, ROUGE, BLEU, chrF, and whether a text repeats itself.

Scores are from 0 to 100, but for exact match (yes or no) and repetition (a share); each is there for every row, so that
two models can be compared row by row. The packages that count are imported when they are needed.
"""

import importlib.util
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from yangtuo.data.token_stats import num_chinese
from yangtuo.errors import MissingDependencyError
from yangtuo.installing import pip_install

_PACKAGES = {"rouge_score": "rouge-score", "rjieba": "rjieba", "sacrebleu": "sacrebleu"}
_END_MARKS = ".。!?,;:、…~ "  # behind NFKC, which makes ASCII of full-width marks
_NGRAM = 4  # characters
_TAIL, _SHORTEST, _COLLAPSED = 200, 40, 0.5


@dataclass(frozen=True)
class CorpusScore:
    """A score of all answers together, which is no mean of rows, and those of each.

    Attributes:
        value: from 0 to 100.
        rows: [n], each row scored by itself.
        signature: how it was counted, for who wants to count it again.
    """

    value: float
    rows: tuple[float, ...]
    signature: str


def check_packages() -> None:
    """Refuse to begin where a package that scores texts is missing.

    Raises:
        MissingDependencyError: all that are missing are named.
    """
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingDependencyError(
            "scores of generated answers: not installed: {missing}; {pip_install}",
            missing=", ".join(missing),
            pip_install=pip_install("eval"),
        )


def has_packages() -> bool:
    """Whether all packages that score texts are there."""
    return all(map(importlib.util.find_spec, _PACKAGES))


def is_exact_match(answer: str, reference: str) -> bool:
    """Whether two texts are one: after NFKC, without blanks and marks like 。. ! ? , ; : at the end; case counts."""
    return _plain(answer) == _plain(reference)


def words(text: str) -> list[str]:
    """Words as ROUGE counts them: of Chinese those of rjieba, of Latin script lower-cased; signs and blanks are none.

    Raises:
        MissingDependencyError: rjieba is not installed.
    """
    check_packages()
    import rjieba

    cut: list[str] = rjieba.cut(unicodedata.normalize("NFKC", text).lower())
    return [word for word in cut if any(map(str.isalnum, word))]


def rouge(answers: Sequence[str], references: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """ROUGE-1, ROUGE-2 and ROUGE-L of each row: the F-measure, in which a word counts as often as it occurs.

    Args:
        answers: [n].
        references: [n].

    Returns:
        `rouge1`, `rouge2` and `rougeL`, [n] from 0 to 100.

    Raises:
        ValueError: not as many answers as references.
        MissingDependencyError: a package is not installed.

    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), as rouge-score counts it.
    """
    check_packages()
    from rouge_score import rouge_scorer

    names = ("rouge1", "rouge2", "rougeL")
    scorer = rouge_scorer.RougeScorer(names, tokenizer=_Words())
    rows = [scorer.score(reference, answer) for answer, reference in _pairs(answers, references)]
    return {name: tuple(100 * float(row[name].fmeasure) for row in rows) for name in names}


def bleu(answers: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """BLEU-4 of sacrebleu; Chinese characters are words where any reference has one (`tokenize="zh"`), else "13a".

    A row by itself has orders of n-grams only that are in it (`effective_order`), else short answers would be 0.

    Args:
        answers: [n].
        references: [n].

    Raises:
        ValueError: no row, or not as many answers as references.
        MissingDependencyError: a package is not installed.
    """
    check_packages()
    from sacrebleu.metrics import BLEU

    how = "zh" if any(map(num_chinese, references)) else "13a"
    return _scored(BLEU(tokenize=how), BLEU(tokenize=how, effective_order=True), answers, references)


def chrf(answers: Sequence[str], references: Sequence[str]) -> CorpusScore:
    """The chrF2 of sacrebleu: n-grams of up to 6 characters, blanks left out; it needs no words.

    Args:
        answers: [n].
        references: [n].

    Raises:
        ValueError: no row, or not as many answers as references.
        MissingDependencyError: a package is not installed.
    """
    check_packages()
    from sacrebleu.metrics import CHRF

    return _scored(CHRF(), CHRF(), answers, references)


def repetition(text: str) -> float:
    """Share of a text's runs of 4 characters that were there before: 0 where all differ, near 1 in a loop.

    1 - distinct / all; 0 for a text of fewer than 4 characters. It rises with the length of any text, so compare
    texts of about one length.
    """
    num = len(text) - _NGRAM + 1
    return 1 - len({text[i : i + _NGRAM] for i in range(num)}) / num if num > 0 else 0.0


def is_repetition_collapse(text: str) -> bool:
    """Whether the model has got stuck: of the last 200 characters, half of the runs of 4 were there before.

    Texts of fewer than 40 characters never count: a short list repeats its words.
    """
    tail = text.rstrip()[-_TAIL:]
    return len(tail) >= _SHORTEST and repetition(tail) >= _COLLAPSED


class _Words:
    """What rouge-score takes for a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().rstrip(_END_MARKS)


def _pairs(answers: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    if len(answers) != len(references):
        raise ValueError(f"{len(answers)} answers and {len(references)} references; each answer needs one")
    return list(zip(answers, references, strict=True))


def _scored(of_all: Any, of_one: Any, answers: Sequence[str], references: Sequence[str]) -> CorpusScore:
    pairs = _pairs(answers, references)
    if not pairs:
        raise ValueError("no answers to score")
    value = float(of_all.corpus_score(list(answers), [list(references)]).score)
    rows = tuple(float(of_one.sentence_score(answer, [reference]).score) for answer, reference in pairs)
    return CorpusScore(value, rows, str(of_all.get_signature()))
