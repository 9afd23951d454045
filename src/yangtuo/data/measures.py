"""What can be told of encoded rows from a sample of them: does the tokenizer fit, what will the engine save."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yangtuo.data.examples import Examples
from yangtuo.data.token_stats import density
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.i18n import Message

_MOST_NAMED = 5


@dataclass(frozen=True)
class Fit:
    """How a tokenizer fits the rows.

    Attributes:
        num_rows: rows looked at.
        num_chinese: Chinese characters in their answers.
        tokens_per_chinese: tokens that such a character takes on average; None where there are none.
        num_other_at_boundary: rows where the end of the prompt and the begin of the answer, tokenised in one piece,
            give other ids than apart.
    """

    num_rows: int
    num_chinese: int
    tokens_per_chinese: float | None
    num_other_at_boundary: int


def no_new_token(tokenizer: Tokenizer, num_rows: int, examples: Examples | None = None) -> str:
    """Why `--train_new_tokens_only` would train no row of the vocabulary; "" where it trains some.

    Args:
        tokenizer: whose tokens are new where the base has no row for them.
        num_rows: of the base.
        examples: what is trained on; None where it is not known yet.
    """
    if num_rows >= tokenizer.num_tokens:
        return Message(
            "--train_new_tokens_only: the tokenizer has {num_tokens} tokens and the base {num_rows} rows, so none "
            "is new; leave it out, or use --modules_to_save embed_tokens,lm_head to train all rows",
            num_tokens=tokenizer.num_tokens,
            num_rows=num_rows,
        )
    if examples is None or int(examples.input_ids.max()) >= num_rows:
        return ""
    new = range(num_rows, tokenizer.num_tokens)
    named = [tokenizer.name_of(i) or tokenizer.bytes_of(i).decode(errors="replace") for i in new[:_MOST_NAMED]]
    return Message(
        "--train_new_tokens_only: none of the {num_new} tokens that the base has no row for ({named}{what}) "
        "occurs in the rows, so that their rows would not be trained; leave it out, or look whether the data has "
        "these words",
        num_new=len(new),
        named=", ".join(named),
        what=", ..." if len(new) > len(named) else "",
    )


def sample(num_rows: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """At most so many rows, in order."""
    return np.sort(np.random.default_rng([seed, 0xFACE]).permutation(num_rows)[:most])


def fit_of(examples: Examples, rows: Sequence[int] | npt.NDArray[np.int64], tokenizer: Tokenizer) -> Fit:
    """Look at some rows."""
    controls = {tokenizer.bos_id, tokenizer.eos_id, *tokenizer.controls.values()} - {None}
    answers: list[str] = []
    joined: list[str] = []
    apart: list[list[int]] = []
    for row in rows:
        ids, supervised = examples.row(int(row))
        begin = int(supervised.argmax())
        prompt = _tail(ids[:begin].tolist(), controls)
        answer = ids[begin : _end_of_run(supervised, begin)].tolist()
        answer = answer[: next((i for i, token in enumerate(answer) if token in controls), len(answer))]
        answers.append(tokenizer.decode(answer))
        joined.append(tokenizer.decode(prompt) + answers[-1])
        apart.append(prompt + answer)
    together = tokenizer.encode(joined)
    dense = density(tokenizer, answers)
    return Fit(
        num_rows=len(rows),
        num_chinese=dense.num_chinese,
        tokens_per_chinese=dense.per_chinese_character(),
        num_other_at_boundary=sum(a != b for a, b in zip(together, apart, strict=True)),
    )


def _tail(ids: list[int], controls: set[int | None]) -> list[int]:
    """What stands behind the last control id."""
    last = next((i for i in range(len(ids) - 1, -1, -1) if ids[i] in controls), -1)
    return ids[last + 1 :]


def _end_of_run(supervised: npt.NDArray[np.bool_], begin: int) -> int:
    behind = np.flatnonzero(~supervised[begin:])
    return begin + int(behind[0]) if len(behind) else len(supervised)
