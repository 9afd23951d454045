"""Ids and masks token by token: with the tokenizer of one id a character the expected ones are written by hand."""

import numpy as np
import pytest

from tests import tiny
from yangtuo.arguments import Truncation
from yangtuo.data.encoding import IGNORED_LABEL, Counts, encode
from yangtuo.data.records import Record, Turn
from yangtuo.data.templates import ALPACA_ZH, Template
from yangtuo.errors import DataError

FRAME = Template("test", before="[", after="]")  # 3 tokens with BOS
BOS, EOS = 1, 2


def records(*rows):
    return [
        Record("rows.json", row, (Turn("user", user, trained=False), Turn("assistant", answer, trained=True)))
        for row, (user, answer) in enumerate(rows)
    ]


def run(rows, limit, truncation=Truncation.KEEP_ANSWER, *, bos=True):
    return encode(records(*rows), tiny.characters(bos=bos), FRAME, max_seq_length=limit, truncation=truncation)


def shown(examples):
    """Each row as prompt text and supervised text, with ^ for BOS and $ for EOS."""
    parts = []
    for i in range(len(examples)):
        ids, supervised = examples.row(i)
        text = "".join({BOS: "^", EOS: "$"}.get(token) or chr(token - 3) for token in ids)
        num_prompt = int(supervised.argmax())
        assert supervised.tolist() == [False] * num_prompt + [True] * (len(ids) - num_prompt)
        parts.append((text[:num_prompt], text[num_prompt:]))
    return parts


# ---- layout


def test_layout_to_the_id():
    examples, counts = run([("ab", "c"), ("d", "")], 100)
    of = {character: ord(character) + 3 for character in "[]abcd"}
    assert examples.input_ids.tolist() == [
        *(BOS, of["["], of["a"], of["b"], of["]"], of["c"], EOS),
        *(BOS, of["["], of["d"], of["]"], EOS),
    ]
    assert examples.supervised.tolist() == [False] * 5 + [True] * 2 + [False] * 4 + [True]
    assert examples.offsets.tolist() == [0, 7, 12]
    assert examples.sources == ["rows.json"] * 2
    assert examples.rows.tolist() == [0, 1]
    dtypes = [array.dtype for array in (examples.input_ids, examples.supervised, examples.offsets, examples.rows)]
    assert dtypes == [np.int32, np.bool_, np.int64, np.int64]
    assert counts == Counts(num_read=2, num_kept=2, empty_answers=1)


def test_no_bos_where_the_tokenizer_puts_none():
    assert shown(run([("ab", "c")], 100, bos=False)[0]) == [("[ab]", "c$")]


def test_the_original_template_and_ids_of_both_tokenizers(tokenizer):
    (record,) = records(("请介绍长城。\n不超过10个字", "长城很长。"))
    examples, _ = encode([record], tokenizer, ALPACA_ZH, max_seq_length=512)
    prompt = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n请介绍长城。\n不超过10个字\n\n### Response: "
    )
    prompt_ids, answer_ids = tokenizer.encode([prompt, "长城很长。"])
    start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    assert examples.row(0)[0].tolist() == [*start, *prompt_ids, *answer_ids, tokenizer.eos_id]
    labels = [IGNORED_LABEL] * (len(start) + len(prompt_ids)) + [*answer_ids, tokenizer.eos_id]
    assert examples.labels(0).tolist() == labels


@pytest.mark.parametrize("text", [text for text in tiny.CONTROL_TEXTS if text != "<0x41>"])
def test_control_tokens_in_user_fields_give_no_control_ids(tokenizer, text):
    (record,) = records((f"问{text}{text}", f"答{text}。{text}"))
    ids = encode([record], tokenizer, ALPACA_ZH, max_seq_length=512)[0].input_ids.tolist()
    control = {tokenizer.backend.id_of(token) for token in ("<|im_start|>", "<|im_end|>", "<think>", "<s>", "</s>")}
    control = (control | {tokenizer.bos_id, tokenizer.eos_id}) - {None}
    assert [i for i in ids if i in control] == [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    assert tokenizer.decode(ids).endswith(f"答{text}。{text}")


def test_more_rows_than_one_batch_of_the_tokenizer():
    rows = [(f"问{i}", f"答{i}") for i in range(2500)]
    examples, counts = run(rows, 100)
    assert counts.num_kept == len(examples) == 2500
    assert shown(examples)[2499] == ("^[问2499]", "答2499$")


# ---- keep_answer


@pytest.mark.parametrize(
    ("user", "answer", "limit", "expected", "counted"),
    [
        ("abcdef", "xyz", 13, ("^[abcdef]", "xyz$"), {}),
        ("abcdef", "xyz", 12, ("^[abcde]", "xyz$"), {"prompt_cut": 1}),
        ("abcdef", "xyz", 7, ("^[]", "xyz$"), {"prompt_cut": 1}),
        # Too long on its own, an answer is sure of half of the room beside the frame, rounded down: 1 of 3, 2 of 4.
        ("abcdef", "xyz", 6, ("^[ab]", "x"), {"prompt_cut": 1, "answer_cut_open": 1}),
        ("abcdef", "vwxyz", 7, ("^[ab]", "vw"), {"prompt_cut": 1, "answer_cut_open": 1}),
        ("a", "vwxyz", 7, ("^[a]", "vwx"), {"answer_cut_open": 1}),
        ("", "xyz", 6, ("^[]", "xyz"), {"answer_cut_open": 1}),
        ("", "xyz", 5, ("^[]", "xy"), {"answer_cut_open": 1}),
        # Room for 7 characters and EOS. A sentence end is near from three quarters of them on: at 6, not at 5.
        ("", "abcde。gh", 11, ("^[]", "abcde。$"), {"answer_cut": 1}),
        ("", "abcd。efgh", 11, ("^[]", "abcd。efg"), {"answer_cut_open": 1}),
        ("", "abcde。ghi", 12, ("^[]", "abcde。$"), {"answer_cut": 1}),  # at 6 of 8, so just near
        ("", "ab。de！gh", 11, ("^[]", "ab。de！$"), {"answer_cut": 1}),
        ("", "abcdef。h", 11, ("^[]", "abcdef。$"), {"answer_cut": 1}),
        # An end that does not fit with EOS is none.
        ("", "abcdefg。ij", 11, ("^[]", "abcdefg。"), {"answer_cut_open": 1}),
        ("abcd", "lmno。qrstuvw", 14, ("^[abcd]", "lmno。$"), {"answer_cut": 1}),
    ],
)
def test_keep_answer(user, answer, limit, expected, counted):
    examples, counts = run([(user, answer)], limit)
    assert shown(examples) == [expected]
    assert counts == Counts(num_read=1, num_kept=1, **counted)


@pytest.mark.parametrize("mark", ["。", "！", "？", "!", "?", "…", "\n", "；", ";"])
def test_every_sentence_end_counts(mark):
    assert shown(run([("", f"abcde{mark}gh")], 11)[0]) == [("^[]", f"abcde{mark}$")]


@pytest.mark.parametrize("mark", ["，", ",", "、", "."])
def test_other_marks_end_no_sentence(mark):
    assert shown(run([("", f"abcde{mark}gh")], 11)[0]) == [("^[]", f"abcde{mark}gh")]


def test_the_frame_of_the_prompt_is_never_cut(tokenizer):
    (record,) = records(("请介绍长城。" * 40, "长城很长。" * 3))
    limit = 200
    examples, counts = encode([record], tokenizer, ALPACA_ZH, max_seq_length=limit)
    ids, supervised = examples.row(0)
    assert counts == Counts(num_read=1, num_kept=1, prompt_cut=1)
    prompt = tokenizer.decode(ids[~supervised].tolist())
    user = prompt.removeprefix(ALPACA_ZH.before).removesuffix(ALPACA_ZH.after)
    assert ALPACA_ZH.prompt(user) == prompt
    assert user
    assert ("请介绍长城。" * 40).startswith(user)
    assert tokenizer.decode(ids[supervised].tolist()) == "长城很长。" * 3
    assert limit - 4 < len(ids) <= limit  # no character more would have fitted; one takes up to 4 tokens


def test_a_frame_that_fills_the_limit():
    assert shown(run([("abc", "xyz")], 5)[0]) == [("^[a]", "x")]
    with pytest.raises(DataError) as caught:
        run([("abc", "xyz")], 4)
    assert str(caught.value) == (
        "none of the 1 rows can be trained on (the prompt's frame alone fills max_seq_length: 1); "
        "raise --max_seq_length"
    )


# ---- the other policies

MIXED = [("a", "b"), ("abcdef", "xy"), ("a", "vwxyz"), ("a", "")]  # 6, 12, 10 and 5 tokens


def test_right_is_the_cut_of_2023_without_rows_that_lose_their_whole_answer():
    examples, counts = run([*MIXED, ("abcde", "")], 8, Truncation.RIGHT)
    assert shown(examples) == [("^[a]", "b$"), ("^[a]", "vwxy"), ("^[a]", "$")]
    dropped = [("rows.json", row, "no answer token left after the cut") for row in (1, 4)]
    assert counts == Counts(num_read=5, num_kept=3, right_cut=1, empty_answers=2, dropped=dropped)
    assert counts.reasons() == {"no answer token left after the cut": 2}
    assert examples.rows.tolist() == [0, 2, 3]


def test_drop():
    examples, counts = run(MIXED, 9, Truncation.DROP)
    assert shown(examples) == [("^[a]", "b$"), ("^[a]", "$")]
    dropped = [("rows.json", row, "longer than max_seq_length") for row in (1, 2)]
    assert counts == Counts(num_read=4, num_kept=2, empty_answers=1, dropped=dropped)


def test_error_names_every_long_row():
    with pytest.raises(DataError) as caught:
        run(MIXED, 9, Truncation.ERROR)
    assert str(caught.value).splitlines() == [
        "rows longer than --max_seq_length 9 (2 problems):",
        "  rows.json row 1: 12 tokens",
        "  rows.json row 2: 10 tokens",
    ]


@pytest.mark.parametrize("truncation", Truncation)
def test_rows_that_just_fit_are_the_same_under_every_policy(truncation):
    examples, counts = run(MIXED, 12, truncation)
    assert shown(examples) == [("^[a]", "b$"), ("^[abcdef]", "xy$"), ("^[a]", "vwxyz$"), ("^[a]", "$")]
    assert counts == Counts(num_read=4, num_kept=4, empty_answers=1)


def test_no_row_left():
    with pytest.raises(DataError) as caught:
        run(MIXED[1:3] * 2, 8, Truncation.DROP)
    assert str(caught.value) == (
        "none of the 4 rows can be trained on (longer than max_seq_length: 4); raise --max_seq_length"
    )


# ---- Examples


@pytest.fixture
def examples():
    return run(MIXED, 12)[0]


def test_columns_by_row(examples):
    assert examples.lengths().tolist() == [6, 12, 10, 5]
    assert examples.num_supervised().tolist() == [2, 3, 6, 1]
    assert examples.labels(0).tolist() == [IGNORED_LABEL] * 4 + [ord("b") + 3, EOS]
    assert examples.labels(3).tolist() == [IGNORED_LABEL] * 4 + [EOS]
    assert examples.where(2) == "rows.json row 2"


@pytest.mark.parametrize("chosen", [[2, 0], [1], [3, 3, 0], [0, 1, 2, 3]])
def test_take(examples, chosen):
    taken = examples.take(chosen)
    assert shown(taken) == [shown(examples)[i] for i in chosen]
    assert [taken.where(i) for i in range(len(taken))] == [examples.where(i) for i in chosen]
    assert taken.num_supervised().tolist() == examples.num_supervised()[chosen].tolist()


def test_take_none(examples):
    taken = examples.take([])
    assert (len(taken), taken.offsets.tolist(), len(taken.input_ids)) == (0, [0], 0)
