"""What holds for every text, limit and policy."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import tiny
from yangtuo.arguments import Truncation
from yangtuo.data.encoding import encode
from yangtuo.data.records import Record, Turn
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError

pytestmark = pytest.mark.filterwarnings("error")

NUM_FRAME = 60  # about as many tokens as the template alone has: limits lie around the place where it matters
# U+2581 is how sentencepiece writes a blank; in a text it is decoded as one.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60) | st.lists(
    st.sampled_from([*tiny.SENTENCES[1:], *tiny.CONTROL_TEXTS, "。", "\n", "长城", " "]), max_size=5
).map("".join)
ROWS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)
LIMITS = st.integers(2, 3 * NUM_FRAME)


@pytest.fixture(scope="module", params=[tiny.tiny_sentencepiece, tiny.tiny_json_tokenizer])
def tokenizer(request, tmp_path_factory):
    return open_tokenizer(request.param(tmp_path_factory.mktemp("tokenizer")))


def records_of(rows):
    return [
        Record("rows.json", row, (Turn("user", user, trained=False), Turn("assistant", answer, trained=True)))
        for row, (user, answer) in enumerate(rows)
    ]


def encode_or_none(rows, tokenizer, limit, truncation):
    try:
        return encode(
            records_of(rows), tokenizer, ALPACA_ZH, max_seq_length=limit, truncation=truncation, num_threads=1
        )
    except DataError:
        return None


@settings(deadline=None)
@given(rows=ROWS, limit=LIMITS, truncation=st.sampled_from(Truncation))
def test_every_kept_row_fits_and_teaches(tokenizer, rows, limit, truncation):
    encoded = encode_or_none(rows, tokenizer, limit, truncation)
    if encoded is None:  # no row is left, or the policy is to stop
        return
    examples, counts = encoded
    assert counts.num_read == len(rows) == counts.num_kept + len(counts.dropped)
    assert counts.num_kept == len(examples)
    assert sorted([*examples.rows.tolist(), *(row for _, row, _ in counts.dropped)]) == list(range(len(rows)))
    assert examples.lengths().max() <= limit
    assert examples.num_supervised().min() >= 1
    ends = sum(
        int(ids[-1] == tokenizer.eos_id and supervised[-1])
        for ids, supervised in map(examples.row, range(len(examples)))
    )
    assert ends == counts.num_kept - counts.answer_cut_open - counts.right_cut
    for i in range(len(examples)):
        supervised = examples.row(i)[1]
        assert not supervised[: int(supervised.argmax())].any()
        assert supervised[int(supervised.argmax()) :].all()


@settings(deadline=None)
@given(rows=ROWS)
def test_rows_that_are_not_cut_decode_to_their_text(tokenizer, rows):
    encoded = encode_or_none(rows, tokenizer, 10_000, Truncation.KEEP_ANSWER)
    assert encoded is not None
    examples, counts = encoded
    assert counts.num_kept == len(rows)
    assert counts.prompt_cut == counts.answer_cut == counts.answer_cut_open == 0
    for i, (user, answer) in enumerate(rows):
        ids, supervised = examples.row(i)
        assert tokenizer.decode(ids[~supervised].tolist()) == ALPACA_ZH.prompt(user)
        assert tokenizer.decode(ids[supervised].tolist()) == answer


@settings(deadline=None)
@given(rows=ROWS, limit=LIMITS)
def test_keep_answer_keeps_the_frame_and_the_begin_of_the_answer(tokenizer, rows, limit):
    encoded = encode_or_none(rows, tokenizer, limit, Truncation.KEEP_ANSWER)
    if encoded is None:
        return
    examples, counts = encoded
    for i in range(len(examples)):
        ids, supervised = examples.row(i)
        user, answer = rows[examples.rows[i]]
        prompt = tokenizer.decode(ids[~supervised].tolist())
        assert prompt.startswith(ALPACA_ZH.before)
        assert prompt.endswith(ALPACA_ZH.after)
        assert ALPACA_ZH.prompt(user).startswith(prompt.removesuffix(ALPACA_ZH.after))
        if ids[-1] == tokenizer.eos_id:
            assert answer.startswith(tokenizer.decode(ids[supervised].tolist()))
    assert counts.right_cut == 0
    assert counts.dropped == [] or set(counts.reasons()) == {"the prompt's frame alone fills max_seq_length"}


@settings(deadline=None)
@given(rows=ROWS, limit=LIMITS, truncation=st.sampled_from(Truncation))
def test_a_row_is_encoded_as_it_is_alone(tokenizer, rows, limit, truncation):
    encoded = encode_or_none(rows, tokenizer, limit, truncation)
    if encoded is None:
        return
    examples, _ = encoded
    for i in range(len(examples)):
        alone = encode_or_none([rows[examples.rows[i]]], tokenizer, limit, truncation)
        assert alone is not None
        assert alone[0].labels(0).tolist() == examples.labels(i).tolist()
        assert alone[0].input_ids.tolist() == examples.row(i)[0].tolist()
