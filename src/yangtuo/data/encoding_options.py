"""How records become ids, and when data is refused for what had to be left out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from yangtuo.config.choices import History, Truncation
from yangtuo.data.readers.reader import Dropped
from yangtuo.data.templates import Template
from yangtuo.errors import DataError
from yangtuo.i18n import Listed, Message

TOO_LONG = Message("longer than max_seq_length")
NO_ROOM = Message("the template's text around the prompt alone fills max_seq_length")
NO_ANSWER_LEFT = Message("no answer token left after the cut")
NO_CALL_CUT = Message("longer than max_seq_length, and calls of tools are not shortened")
NO_TURN_LEFT = Message("no trained answer left without the oldest turns")
_MOST_TOLD = 3  # reasons, in a sentence
_OF_LENGTH = (TOO_LONG, NO_ROOM, NO_ANSWER_LEFT, NO_CALL_CUT, NO_TURN_LEFT)


@dataclass(frozen=True)
class EncodingOptions:
    """How records become ids: with the tokenizer, all that decides it."""

    template: Template
    max_seq_length: int
    truncation: Truncation = Truncation.KEEP_ANSWER
    parse_special_tokens: bool = False
    history: History = History.AS_SERVED


def check_kept(
    num_kept: int, num_read: int, dropped: Sequence[Dropped], reasons: Mapping[str, int], options: EncodingOptions
) -> None:
    """Refuse data of which nothing is left, or of which nothing may be left out.

    Args:
        num_kept: rows with an example.
        num_read: all rows.
        dropped: those without one, or the first of them.
        reasons: how many there are of each kind, the most frequent first.
        options: what was to be done with rows that are too long.

    Raises:
        DataError: see `encoding.encode`.
    """
    if options.truncation is Truncation.ERROR:
        too_long = [
            one._replace(reason=one.reason.split(": ")[1]).told for one in dropped if one.reason.startswith(TOO_LONG)
        ]
        if too_long:
            raise DataError.of_problems(
                Message("rows longer than --max_seq_length {max_seq_length}", max_seq_length=options.max_seq_length),
                too_long,
            )
    if not num_kept:
        told = Listed(
            [Message("{reason}: {count}", reason=reason, count=count) for reason, count in reasons.items()][
                :_MOST_TOLD
            ],
            "; ",
        )
        text = Message("none of the {num_read} rows can be trained on ({told})", num_read=num_read, told=told)
        if any(reason in _OF_LENGTH for reason in reasons):
            raise DataError("{text}; raise --max_seq_length", text=text)
        raise DataError(text)


def check_rendered(dropped: Iterable[Dropped], reasons: Mapping[str, int]) -> None:
    """Refuse data with rows that the template cannot render, where bad rows are an error; arguments as `check_kept`.

    Raises:
        DataError: every such row, or their reasons where there are too many rows to list.
    """
    bad = {reason: count for reason, count in reasons.items() if not reason.startswith(_OF_LENGTH)}
    if bad:
        listed = [one.told for one in dropped if one.reason in bad]
        counted = [Message("{count:,} rows: {reason}", count=count, reason=reason) for reason, count in bad.items()]
        title = Message("rows that the template cannot render; --bad_rows drop leaves them out")
        raise DataError.of_problems(title, listed or counted)


def num_too_long(reasons: Mapping[str, int]) -> int:
    """Rows that are left out for their length; arguments as `check_kept`."""
    return sum(count for reason, count in reasons.items() if reason.startswith(_OF_LENGTH))


def count_reasons(dropped: Iterable[Dropped]) -> dict[str, int]:
    """Dropped rows by reason, the most frequent first; numbers in a reason do not tell two apart."""
    counts: dict[str, int] = {}
    for one in dropped:
        reason = one.reason.split(": ")[0] if one.reason.startswith(TOO_LONG) else one.reason
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: -pair[1]))
