"""A folder with `tokenizer.model` and `tokenizer.json`: tokenizer.model is read, with the tokens that the other adds.

Tools that add words to a tokenizer write tokenizer.json anew and leave an old tokenizer.model beside it; tools that
merge vocabularies write tokenizer.model anew and leave an old tokenizer.json. Where the two contradict each other in
any other way, nothing tells which is meant.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yangtuo.errors import TokenizerError, one_line
from yangtuo.i18n import Message

_MOST_NAMED = 5


def added_by_json(folder: Path, pieces: Mapping[str, int]) -> tuple[list[dict[str, Any]], str]:
    """The tokens that tokenizer.json adds to those of tokenizer.model, and what is said of the two.

    Args:
        folder: of the tokenizer.
        pieces: tokens of tokenizer.model and of what the folder adds to it otherwise, with their ids.

    Raises:
        TokenizerError: they contradict each other.
    """
    try:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        listed = {str(one["content"]): one for one in content.get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], Message(
            "tokenizer.model is read; tokenizer.json beside it cannot be: {error}", error=one_line(repr(error), 80)
        )
    own = dict(vocabulary) if isinstance(vocabulary, dict) else {one[0]: i for i, one in enumerate(vocabulary)}
    added = {text: int(one["id"]) for text, one in listed.items() if text not in pieces}
    taken = {i: text for text, i in pieces.items() if own.get(text) != i}  # else tokenizer.json renames a piece of both
    other = {**own, **{text: int(one["id"]) for text, one in listed.items()}}
    wrong = [text for text, i in other.items() if pieces.get(text, i) != i or taken.get(i, text) != text]
    wrong += [text for text in own if text not in pieces and text not in listed]
    if wrong:
        first = wrong[0]
        raise TokenizerError(
            "{folder}: tokenizer.model and tokenizer.json contradict each other in {num_wrong:,} tokens (the id of "
            "{first!r}: {pieces} and {other}); remove the one that is not meant: transformers reads tokenizer.json, "
            "the 2023 script tokenizer.model",
            folder=folder,
            num_wrong=len(wrong),
            first=first,
            pieces=pieces.get(first, "none"),
            other=other[first],
        )
    told = []
    if added:
        names = ", ".join(list(added)[:_MOST_NAMED]) + (", ..." if len(added) > _MOST_NAMED else "")
        told.append(
            Message(
                "with the {num_added:,} token(s) that tokenizer.json adds to it: {names}",
                num_added=len(added),
                names=names,
            )
        )
    if missing := len(pieces.keys() - other.keys()):
        told.append(
            Message(
                "of which tokenizer.json lacks {missing:,} tokens: programs that read that one make other ids",
                missing=missing,
            )
        )
    return [listed[text] for text in added], Message(
        "tokenizer.model is read, {told}", told=", and ".join(told)
    ) if told else ""
