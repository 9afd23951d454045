"""What is wrong with the values of a row: texts, weights, keys that change what is meant."""

from collections.abc import Iterator
from typing import Any

from yangtuo.data.readers.json_rows import Doubled
from yangtuo.data.readers.shown import found as _found
from yangtuo.data.readers.shown import keys_of as _keys
from yangtuo.data.readers.shown import short as _short
from yangtuo.data.readers.shown import shown as _shown
from yangtuo.i18n import Message, gettext_noop

_HEAVIEST = 1_000_000
_DEEPEST = 100  # levels of lists and objects; templates render them by recursion
_MEDIA = Message("pictures, sound and films cannot be trained on")
_PREFERENCE = Message(
    "pairs of a better and a worse answer are for DPO, which this program does not do; keep the better answer"
)
_MASK = Message('which tokens carry a loss is said by "train": true or false')
# Keys that change what a row or a turn means; where they hold something, it is a fault. Others are told as not used.
_MEANING = {
    **dict.fromkeys(("images", "image", "videos", "video", "audios", "audio", "image_url"), _MEDIA),
    **dict.fromkeys(("chosen", "rejected", "rejected_response", "rejected_messages"), _PREFERENCE),
    **dict.fromkeys(("loss_mask", "mask", "masked"), _MASK),
}
_EMPTY = gettext_noop("{key!r} is empty; expected {rule}")
NOTHING: tuple[Any, ...] = (None, "", [], {})


def meaning_faults(given: dict[str, Any]) -> Iterator[str]:
    """Keys that mean something which cannot be followed."""
    for key in _MEANING:
        if given.get(key) not in NOTHING:
            yield Message(
                "{key!r} is {given}: {meaning}; remove the row, or the key where it means nothing",
                key=key,
                given=_short(given[key]),
                meaning=_MEANING[key],
            )


def text_faults(row: dict[str, Any], key: str, rule: str, *, may_be_empty: bool = True) -> Iterator[str]:
    """A key that has to hold a text."""
    if key not in row:
        yield Message("no {key!r} (keys: {keys}); expected {rule}", key=key, keys=_keys(row), rule=rule)
    elif not isinstance(row[key], str):
        yield Message("{key!r} is {row}; expected {rule}", key=key, row=_found(row[key]), rule=rule)
    elif not is_encodable(row[key]):
        yield Message(
            "{key!r} has half of a surrogate pair, which is no character; expected {rule}", key=key, rule=rule
        )
    elif not may_be_empty and not row[key].strip():
        yield Message(_EMPTY, key=key, rule=rule)


def is_of_empty_text(fault: str) -> bool:
    """Whether a fault is that a text is empty, at any place of a row."""
    while isinstance(fault, Message) and isinstance(inner := fault.values.get("fault"), str):
        fault = inner
    return isinstance(fault, Message) and fault.template == _EMPTY


def optional_faults(row: dict[str, Any], key: str) -> Iterator[str]:
    """A key that may hold a text."""
    value = row.get(key)
    if not isinstance(value, str | None):
        yield Message("{key!r} is {value}; expected a text, null or no {key}", key=key, value=_found(value))
    elif value and not is_encodable(value):
        yield Message("{key!r} has half of a surrogate pair, which is no character; expected a text", key=key)


def weight_of(row: dict[str, Any]) -> Any:
    """What a row or a turn says of how much it counts."""
    weight = row.get("weight")
    return 1.0 if weight is None else weight


def weight_faults(weight: Any) -> list[str]:
    """A weight that is none."""
    if isinstance(weight, int | float) and not isinstance(weight, bool) and 0 <= weight <= _HEAVIEST:
        return []
    return [
        Message(
            "'weight' is {weight}; expected a number from 0 to {heaviest:,}", weight=_short(weight), heaviest=_HEAVIEST
        )
    ]


def nested_fault(value: Any) -> str:
    """What is wrong in a JSON value, at any depth, as a predicate of its key; "" for nothing."""
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            return Message("is nested too deeply; at most {deepest} levels can be rendered", deepest=_DEEPEST)
        inner: list[Any] = []
        for one in level:
            if isinstance(one, Doubled):
                return Message("has the key {key} twice; keep one of them", key=_shown(one.key))
            if isinstance(one, str) and not is_encodable(one):
                return Message("has half of a surrogate pair, which is no character")
            if isinstance(one, dict):
                inner += [*one, *one.values()]
            elif isinstance(one, list):
                inner += one
        level, depth = inner, depth + 1
    return ""


def is_encodable(text: str) -> bool:
    """Whether a text is one in UTF-8."""
    # JSON can spell "\ud800" alone; no UTF-8 text, and so no tokenizer, can.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
