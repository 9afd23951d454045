"""BLEU-4 and ROUGE as LLaMA-Factory prints them, for who compares with its numbers; `text_scores` has the true ones.

Its rule, read in src/llamafactory/train/sft/metric.py (commit 158f4cb): words of jieba joined by blanks into
rouge-chinese 1.0.3, which counts each different n-gram once; BLEU-4 by characters with nltk's smoothing method 3;
each row rounded to four digits, then the mean of the rows. rjieba cuts as jieba does.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from yangtuo.evaluation.text_scores import check_packages

NAMES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")
_TINY = 1e-8  # in the denominator of rouge-chinese's F-measure
# Where rouge-chinese begins a new sentence. It matters since a blank sentence in between counts as an empty word.
_SENTENCE_ENDS = (
    (r"([。！？?])([^”’])", r"\1\n\2"),
    (r"(\.{6})([^”’])", r"\1\n\2"),
    (r"(…{2})([^”’])", r"\1\n\2"),
    (r"([。！？?][”’])([^，。！？?])", r"\1\n\2"),
)


def as_llamafactory(answer: str, reference: str) -> dict[str, float]:
    """The four scores of a row, in percent, rounded to four digits; the mean of rows is what LLaMA-Factory prints.

    Raises:
        MissingDependencyError: rjieba is not installed.
    """
    check_packages()
    import rjieba

    found, wanted = (_words(rjieba.cut(text)) for text in (answer, reference))
    scores = {"bleu-4": bleu_of_characters(answer, reference), "rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
    if found and wanted:
        for n in (1, 2):
            ours, theirs = (_ngrams(words, n) for words in (found, wanted))
            scores[f"rouge-{n}"] = _f_measure(len(ours & theirs), len(ours), len(theirs))
        scores["rouge-l"] = _f_measure(common_length(found, wanted), len(found), len(wanted))
    return {name: round(100 * scores[name], 4) for name in NAMES}


def bleu_of_characters(answer: str, reference: str) -> float:
    """BLEU-4 by characters, from 0 to 1; an n-gram order without a match counts as a half, a quarter, ... of one.

    Source: Chen and Cherry, "A Systematic Comparison of Smoothing Techniques for Sentence-Level BLEU" (2014), method 3.
    """
    logs, num_smoothed = [], 0
    for n in range(1, 5):
        ours, theirs = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (answer, reference))
        matched, all_of_them = (ours & theirs).total(), max(1, ours.total())
        if not matched and n == 1:
            return 0.0
        num_smoothed += not matched
        logs.append(math.log((matched or 0.5**num_smoothed) / all_of_them))
    brevity = min(0.0, 1 - len(reference) / len(answer))
    return math.exp(brevity + sum(logs) / 4)


def common_length(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest common subsequence, by the bits of whole numbers.

    Source: Hyyrö, "Bit-Parallel LCS-length Computation Revisited" (2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << i
    every = (1 << len(one)) - 1
    rest = every
    for word in other:
        matches = rest & places.get(word, 0)
        rest = ((rest + matches) | (rest - matches)) & every
    return len(one) - rest.bit_count()


def _words(cut: Sequence[str]) -> list[str]:
    """Words as rouge-chinese sees them in words that are joined by blanks; none where all are blank."""
    joined = " ".join(cut)
    if not joined.split():
        return []
    for pattern, replacement in _SENTENCE_ENDS:
        joined = re.sub(pattern, replacement, joined)
    return [word for sentence in joined.rstrip().split("\n") if sentence for word in sentence.split() or [""]]


def _ngrams(words: Sequence[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def _f_measure(num_common: int, num_ours: int, num_theirs: int) -> float:
    precision = num_common / num_ours if num_ours else 0.0
    recall = num_common / num_theirs if num_theirs else 0.0
    return 2 * precision * recall / (precision + recall + _TINY)
