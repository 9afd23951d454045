"""Text that looks like a control token: counted where a user wrote it, turned into ids where a template did."""

import functools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from yangtuo.data.records import Record

# What the field's templates use, whatever tokenizer is at hand.
WELL_KNOWN = (
    *("<s>", "</s>", "<unk>", "<pad>", "[PAD]", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "### Instruction:"),
    *("### Response:", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>"),
)

# What tokenizers swallows: the blanks of Unicode (White_Space), of which Python's `strip` takes four more.
_BLANKS = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


class Spelled(NamedTuple):
    """A token as transformers reads it out of a text, and whether it swallows the blanks beside it."""

    id: int
    strips_left: bool
    strips_right: bool


class SpecialText:
    """Finds such text in records."""

    def __init__(self, controls: Mapping[str, int]):
        self._pattern = _pattern(tuple(dict.fromkeys((*controls, *WELL_KNOWN))))
        self._search = self._pattern.search

    def count_in(self, record: Record, counts: dict[str, int]) -> bool:
        """Add what a record's turns hold to `counts` (each text once a record); whether there was any."""
        for turn in record.turns:
            if self._search(turn.text):
                break
        else:
            return False
        for text in {text for turn in record.turns for text in self._pattern.findall(turn.text)}:
            counts[text] = counts.get(text, 0) + 1
        return True


def split_at_controls(text: str, controls: Mapping[str, int | None]) -> list[str | int]:
    """A text in pieces: control tokens as their ids, the rest as it is, empty pieces left out."""
    if not controls:
        return [text] if text else []
    parts = _pattern(tuple(controls)).split(text)  # odd ones are what the pattern caught
    ids = (controls[part] if i % 2 else part for i, part in enumerate(parts))
    return [part for part in ids if part not in ("", None)]


def split_as_transformers(text: str, spelled: Mapping[str, Spelled]) -> list[str | int]:
    """The same, with tokens that swallow the blanks beside them.

    Source: `PreTrainedTokenizer.tokenize` of transformers 4.30, tokenization_utils.py.
    """
    if not spelled:
        return [text] if text else []
    parts: list[str | int] = list(_pattern(tuple(spelled)).split(text))
    for i in range(1, len(parts), 2):
        token, before, behind = spelled[str(parts[i])], str(parts[i - 1]), str(parts[i + 1])
        parts[i - 1] = before.rstrip() if token.strips_left else before
        parts[i] = token.id
        parts[i + 1] = behind.lstrip() if token.strips_right else behind
    return [part for part in parts if part != ""]


def stripping(tokens: Iterable[Spelled]) -> dict[int, Spelled]:
    """Those that swallow blanks, by their ids."""
    return {token.id: token for token in tokens if token.strips_left or token.strips_right}


def swallow_blanks(
    runs: Iterable[str | int | None], strips: Mapping[int, Spelled], *, is_behind_one: bool = False
) -> tuple[list[str | int | None], bool]:
    """Texts and control tokens of a dialogue without the blanks that tokens swallow, as `<|user|>` does before 你好.

    What a prompt ends with is kept: the model reads it before there is an answer.

    Args:
        runs: in their order.
        strips: what swallows blanks.
        is_behind_one: a token that swallows what is behind it came before all of these.

    Returns:
        what is left, and whether it ends behind such a token.

    Source: `AddedToken.lstrip` and `.rstrip` of tokenizers 0.22, which transformers' fast tokenizers follow.
    """
    kept: list[str | int | None] = []
    for run in runs:
        text = run.lstrip(_BLANKS) if isinstance(run, str) and is_behind_one else run
        if text == "":
            continue
        if isinstance(text, int):
            token = strips.get(text)
            is_behind_one = token is not None and token.strips_right
            if token is not None and token.strips_left and kept and isinstance(kept[-1], str):
                kept[-1:] = filter(None, [kept[-1].rstrip(_BLANKS)])
        elif text is not None:
            is_behind_one = False
        kept.append(text)
    return kept, is_behind_one


@functools.cache
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    # The longest first: where one token begins like another, the longer is meant.
    return re.compile(f"({'|'.join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))})")
