"""Where an answer that is too long is cut."""

from collections.abc import Callable, Iterator

from yangtuo.data.structures import is_inside, spans_of

_SENTENCE_ENDS = "。！？!?…\n；;"
_NEAR = 0.75  # a sentence end counts as near when at least this part of the room for the answer stays used


def cut_answer(
    text: str, closed: Callable[[str], list[int]], opened: Callable[[str], list[int]], room: int
) -> tuple[list[int], bool]:
    """The answer's ids that fit, and whether they end at a sentence end, with the end token.

    What has to be whole (JSON, code, a table, a thought) is never ended: within it, the answer is cut without its end.

    Args:
        text: the answer.
        closed: ids of an answer with its end.
        opened: ids of an answer without it.
        room: at most so many.
    """
    num_chars = longest(text, lambda part: len(closed(part)) <= room)
    spans = spans_of(text)
    for end in _sentence_ends(text, num_chars):
        if not is_inside(spans, end) and len(whole_sentences := closed(text[:end])) <= room:
            return whole_sentences, True
    # By characters: a cut by tokens could end inside the bytes of one. Only where not even one fits, by tokens.
    num_chars = longest(text, lambda part: len(opened(part)) <= room)
    return opened(text[: num_chars or 1])[:room], False


def _sentence_ends(text: str, num_chars: int) -> Iterator[int]:
    """Places behind a sentence that are near, the nearest first."""
    end = num_chars
    while (end := max(text.rfind(mark, 0, end) for mark in _SENTENCE_ENDS) + 1) and end >= _NEAR * num_chars:
        yield end
        end -= 1


def longest(text: str, fits: Callable[[str], bool]) -> int:
    """The largest number of leading characters that fits, by bisection."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
    return low
