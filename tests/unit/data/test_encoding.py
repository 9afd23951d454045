"""Ids and masks token by token: with the tokenizer of one id a character the expected ones are written by hand."""

import numpy as np
import pytest

from tests import tiny
from tests.dialogues import controlled, turns
from tests.dialogues import records as made
from tests.dialogues import shown as text_runs
from yangtuo.config.choices import Truncation
from yangtuo.data.encoding import EncodingOptions, encode, prompt_ids
from yangtuo.data.examples import IGNORED_LABEL, RowOutcome
from yangtuo.data.records import Record, Turn
from yangtuo.data.templates import ALPACA_ZH, ALPACA_ZH_2, FrameTemplate, TemplateFault
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError

FRAME = FrameTemplate("test", opening="", opening_without_system="[", after_user="]", between="|")  # 3 tokens with BOS
BOS, EOS = 1, 2
START = ALPACA_ZH.opening.format(system=ALPACA_ZH.default_system)


def records(*rows):
    return [
        Record("rows.json", row, (Turn("user", user, trained=False), Turn("assistant", answer, trained=True)))
        for row, (user, answer) in enumerate(rows)
    ]


def run(rows, limit, truncation=Truncation.KEEP_ANSWER, *, bos=True):
    examples, dropped = encode(records(*rows), tiny.characters(bos=bos), EncodingOptions(FRAME, limit, truncation))
    return examples, told(examples, dropped)


def told(examples, dropped=()):
    """How often each thing happened to a row, and the rows that are left out."""
    outcomes = {
        outcome.name.lower(): examples.num_with(outcome)
        for outcome in RowOutcome
        if outcome and examples.num_with(outcome)
    }
    return {**outcomes, **({"dropped": [tuple(one[:2]) + one[3:] for one in dropped]} if dropped else {})}


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
    assert (examples.begins.tolist(), examples.ends.tolist()) == ([0, 7], [7, 12])
    assert examples.trained.tolist() == [[2, 2], [1, 1]]
    assert [examples.source(i) for i in range(2)] == ["rows.json"] * 2
    assert examples.rows.tolist() == [0, 1]
    dtypes = [array.dtype for array in (examples.input_ids, examples.supervised, examples.begins, examples.rows)]
    assert dtypes == [np.int32, np.bool_, np.int64, np.int64]
    assert counts == dict(empty_answer=1)


def test_no_bos_where_the_tokenizer_puts_none():
    assert shown(run([("ab", "c")], 100, bos=False)[0]) == [("[ab]", "c$")]


def test_the_original_template_and_ids_of_both_tokenizers(tokenizer):
    (record,) = records(("请介绍长城。\n不超过10个字", "长城很长。"))
    examples, _ = encode([record], tokenizer, EncodingOptions(ALPACA_ZH, 512))
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
    ids = encode([record], tokenizer, EncodingOptions(ALPACA_ZH, 512))[0].input_ids.tolist()
    names = {"<|im_start|>", "<|im_end|>", "<think>", "<s>", "</s>"} - tokenizer.words
    control = {tokenizer.backend.id_of(token) for token in names}
    control = (control | {tokenizer.bos_id, tokenizer.eos_id}) - {None}
    assert [i for i in ids if i in control] == [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    assert tokenizer.decode(ids).endswith(f"答{text}。{text}")


def test_more_rows_than_one_batch_of_the_tokenizer():
    rows = [(f"问{i}", f"答{i}") for i in range(2500)]
    examples, counts = run(rows, 100)
    assert len(examples) == 2500
    assert counts == {}
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
    assert counts == dict(**counted)


@pytest.mark.parametrize("mark", ["。", "！", "？", "!", "?", "…", "\n", "；", ";"])
def test_every_sentence_end_counts(mark):
    assert shown(run([("", f"abcde{mark}gh")], 11)[0]) == [("^[]", f"abcde{mark}$")]


@pytest.mark.parametrize("mark", ["，", ",", "、", "."])
def test_other_marks_end_no_sentence(mark):
    assert shown(run([("", f"abcde{mark}gh")], 11)[0]) == [("^[]", f"abcde{mark}gh")]


def test_the_frame_of_the_prompt_is_never_cut(tokenizer):
    (record,) = records(("请介绍长城。" * 40, "长城很长。" * 3))
    limit = 200
    examples, _ = encode([record], tokenizer, EncodingOptions(ALPACA_ZH, limit))
    ids, supervised = examples.row(0)
    assert told(examples) == dict(prompt_cut=1)
    prompt = tokenizer.decode(ids[~supervised].tolist())
    user = prompt.removeprefix(START).removesuffix(ALPACA_ZH.after_user)
    assert ALPACA_ZH.prompt(user) == prompt
    assert user
    assert ("请介绍长城。" * 40).startswith(user)
    assert tokenizer.decode(ids[supervised].tolist()) == "长城很长。" * 3
    assert limit - 4 < len(ids) <= limit  # no character more would have fitted; one takes up to 4 tokens


def test_a_frame_that_fills_the_limit(sentences):
    assert shown(run([("abc", "xyz")], 5)[0]) == [("^[a]", "x")]
    with pytest.raises(DataError) as caught:
        run([("abc", "xyz")], 4)
    sentences(str(caught.value), "--max_seq_length")


# ---- the other policies

MIXED = [("a", "b"), ("abcdef", "xy"), ("a", "vwxyz"), ("a", "")]  # 6, 12, 10 and 5 tokens


def test_right_is_the_cut_of_2023_without_rows_that_lose_their_whole_answer():
    examples, counts = run([*MIXED, ("abcde", "")], 8, Truncation.RIGHT)
    assert shown(examples) == [("^[a]", "b$"), ("^[a]", "vwxy"), ("^[a]", "$")]
    dropped = [("rows.json", row, "no answer token left after the cut") for row in (1, 4)]
    assert counts == dict(right_cut=1, empty_answer=1, dropped=dropped)
    assert examples.rows.tolist() == [0, 2, 3]


def test_drop():
    examples, counts = run(MIXED, 9, Truncation.DROP)
    assert shown(examples) == [("^[a]", "b$"), ("^[a]", "$")]
    dropped = [("rows.json", row, "longer than max_seq_length") for row in (1, 2)]
    assert counts == dict(empty_answer=1, dropped=dropped)


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
    assert counts == dict(empty_answer=1)


def test_no_row_left(sentences):
    with pytest.raises(DataError) as caught:
        run(MIXED[1:3] * 2, 8, Truncation.DROP)
    sentences(str(caught.value), "--max_seq_length")


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
    assert (len(taken), taken.lengths().tolist()) == (0, [])


# ---- dialogues


TURN = FrameTemplate(
    "turns",
    opening="{system}#[",
    opening_without_system="[",
    after_user="]",
    between="<s>[",
    end="<e>",
    control_tokens=("<s>", "<e>"),
)
TOKENIZER = controlled("<e>")
END = TOKENIZER.controls["<e>"]


def encoded(*dialogues, limit=1000, truncation=Truncation.KEEP_ANSWER, template=TURN, parse=False):
    options = EncodingOptions(template, limit, truncation, parse_special_tokens=parse)
    return encode(made(*dialogues), TOKENIZER, options)


def texts(*dialogues, **options):
    examples, _ = encoded(*dialogues, **options)
    return [text_runs(examples, i, TOKENIZER) for i in range(len(examples))]


def test_a_dialogue_to_the_id():
    examples, _ = encoded(turns("q", "a", "r", "b", system="s", weights=[0.5, 2.0]))
    of = {character: ord(character) + 3 for character in "[]#qarbs"}
    assert examples.input_ids.tolist() == [
        *(1, of["s"], of["#"], of["["], of["q"], of["]"], of["a"], END),
        *(1, of["["], of["r"], of["]"], of["b"], END),
    ]
    assert examples.row_weights(0).tolist() == [0] * 6 + [0.5] * 2 + [0] * 4 + [2] * 2
    assert examples.supervised.tolist() == [False] * 6 + [True] * 2 + [False] * 4 + [True] * 2
    assert examples.trained.tolist() == [[4, 5]]


def test_an_untrained_answer_has_no_loss_and_neither_has_its_end():
    dialogue = turns("q", "a", "r", "b", trained=[False, True])
    assert texts(dialogue) == [[("<<<s>>>[q]a<<<e>>><<<s>>>[r]", 0), ("b<<<e>>>", 1)]]
    examples, _ = encoded(dialogue)
    assert examples.weights is None
    assert examples.ends_trained([END]).tolist() == [True]
    other, _ = encoded(turns("q", "a", "r", "b", trained=[True, False]))
    assert text_runs(other, 0, TOKENIZER) == [("<<<s>>>[q]", 0), ("a<<<e>>>", 1), ("<<<s>>>[r]b<<<e>>>", 0)]


def test_an_empty_answer_counts_only_where_it_is_trained():
    examples, _ = encoded(turns("q", "", "r", "b"), turns("q", "", "r", "b", trained=[False, True]))
    assert (examples.outcomes & int(RowOutcome.EMPTY_ANSWER)).tolist() == [RowOutcome.EMPTY_ANSWER, 0]


def test_a_weight_too_small_for_its_column_is_none():
    examples, dropped = encoded(turns("q", "a", weights=[1e-60]), turns("q", "a", weights=[1e-30]))
    assert examples.rows.tolist() == [1]
    assert examples.supervised.sum() == examples.num_supervised()[0] == 2
    assert [one.row for one in dropped] == [0]


WHOLE_JSON = '{"a": "一。", "b": "二。", "c": "三。", "d": "四。"}'
SENTENCES = "一句话。" * 12


@pytest.mark.parametrize(
    ("answer", "num_kept", "is_ended"),
    [
        (SENTENCES, 42, True),  # the control: ten sentences and the end token
        (f"结果。{WHOLE_JSON}", 30, False),  # the old cut: behind the third, with an end
        (f"{SENTENCES}```\n一。\n二。\n```", 56, True),  # before the code, which is near
        ("话。```\n一。\n二。\n三。\n四。\n```", 17, False),
        ("话。\n| 名 | 数 |\n|---|---|\n| 一。 | 1 |\n| 二。 | 2 |", 30, False),
        ("<think>先想。再想。又想。想完。</think>好。", 18, False),
        ("先想。再想。又想。想完。</think>好。", 10, False),  # the prompt has opened it
        ("<think>想。</think>好。再好。更好。最好。", 24, True),
    ],
)
def test_an_answer_is_never_ended_within_what_has_to_be_whole(answer, num_kept, is_ended):
    limit = num_kept + 3  # <s>[]
    examples, _ = encoded(turns("", answer), limit=limit)
    (_, (said, _)) = text_runs(examples, 0, TOKENIZER)
    assert len(examples.row(0)[0]) <= limit
    assert said.endswith("<<<e>>>") == is_ended
    cut = said.removesuffix("<<<e>>>")
    assert answer.startswith(cut)
    assert cut != answer
    outcome = RowOutcome.ANSWER_CUT if is_ended else RowOutcome.ANSWER_CUT_OPEN
    assert examples.outcomes.tolist() == [int(outcome)]
    if is_ended:
        assert cut[-1] in "。\n"
    else:
        assert len(cut) == num_kept  # all that fits


def test_other_policies_are_not_touched():
    examples, _ = encoded(turns("q", WHOLE_JSON), limit=20, truncation=Truncation.RIGHT)
    assert examples.outcomes.tolist() == [int(RowOutcome.RIGHT_CUT)]


DIALOGUE = turns("abc", "de", "f", "g", "hij", "kl", system="s")  # 3 + 8, 6 and 9 tokens


@pytest.mark.parametrize(
    ("limit", "expected", "outcomes"),
    [
        (26, "<<<s>>>s#[abc]=de<<<e>>>|<<<s>>>[f]=g<<<e>>>|<<<s>>>[hij]=kl<<<e>>>", RowOutcome.WHOLE),
        (25, "<<<s>>>s#[f]=g<<<e>>>|<<<s>>>[hij]=kl<<<e>>>", RowOutcome.TURNS_LOST),
        (17, "<<<s>>>s#[f]=g<<<e>>>|<<<s>>>[hij]=kl<<<e>>>", RowOutcome.TURNS_LOST),
        (16, "<<<s>>>s#[hij]=kl<<<e>>>", RowOutcome.TURNS_LOST),
        (11, "<<<s>>>s#[hij]=kl<<<e>>>", RowOutcome.TURNS_LOST),
        (10, "<<<s>>>s#[hi]=kl<<<e>>>", RowOutcome.TURNS_LOST | RowOutcome.PROMPT_CUT),
        (8, "<<<s>>>s#[]=kl<<<e>>>", RowOutcome.TURNS_LOST | RowOutcome.PROMPT_CUT),
        (7, "<<<s>>>s#[h]=k", RowOutcome.TURNS_LOST | RowOutcome.PROMPT_CUT | RowOutcome.ANSWER_CUT_OPEN),
    ],
)
def test_a_long_dialogue_loses_its_oldest_turns_first(limit, expected, outcomes):
    examples, _ = encoded(DIALOGUE, limit=limit)
    found = "".join(("=" if weight else "|") + text for text, weight in text_runs(examples, 0, TOKENIZER))
    assert found.removeprefix("|") == expected
    assert examples.outcomes.tolist() == [int(outcomes)]
    assert examples.lengths()[0] <= limit


def test_turns_are_lost_one_by_one_however_many_there_are():
    dialogue = turns(*("q" * 7, "a") * 40)
    for num_kept in (1, 2, 17, 39):
        (row,) = texts(dialogue, limit=12 * num_kept + 11)
        assert sum(weight > 0 for _, weight in row) == num_kept


def test_a_dialogue_without_a_trained_answer_after_the_loss_is_left_out():
    dialogue = turns("abc", "de", "f", "g", trained=[True, False])
    for limit in (10, 5):
        examples, dropped = encoded(dialogue, turns("", ""), limit=limit)
        assert [(one.row, one.reason) for one in dropped] == [(0, "no trained answer left without the oldest turns")], (
            limit
        )
        assert examples.rows.tolist() == [1]


def test_right_cuts_a_dialogue_where_the_limit_lies():
    assert [text for text, _ in texts(DIALOGUE, limit=15, truncation=Truncation.RIGHT)[0]] == [
        *("<<<s>>>s#[abc]", "de<<<e>>>", "<<<s>>>[f]"),
    ]
    examples, _ = encoded(DIALOGUE, limit=16, truncation=Truncation.RIGHT)
    assert examples.lengths().tolist() == [16]
    assert text_runs(examples, 0, TOKENIZER)[-1] == ("g", 1)


def test_a_system_prompt_that_fills_the_limit():
    with pytest.raises(DataError, match="the template's text around the prompt alone fills max_seq_length: 1"):
        encoded(turns("q", "a", system="s" * 50), limit=50)


# ---- text like a control token


@pytest.mark.parametrize("text", ["<s>", "</s>", "<e>", "x<e>y</s>"])
def test_control_tokens_in_any_turn_are_text(text):
    assert texts(turns(text, text, text, text, system=text)) == [
        [(f"<<<s>>>{text}#[{text}]", 0), (f"{text}<<<e>>>", 1), (f"<<<s>>>[{text}]", 0), (f"{text}<<<e>>>", 1)]
    ]
    examples, _ = encoded(turns(text, text))
    assert examples.num_with(RowOutcome.SPECIAL_TEXT) == 1


def test_control_tokens_in_any_turn_are_read_with_parse_special_tokens():
    assert texts(turns("q<e>", "a</s>b", system="<s>"), parse=True) == [
        [("<<<s>>>#[q<<<e>>>]", 0), ("a<<</s>>>b<<<e>>>", 1)]
    ]


def test_parse_special_tokens_changes_nothing_else():
    dialogues = (DIALOGUE, turns("", ""), turns(" a ", "\n"))
    for limit in (1000, 17, 8):
        plain, parsed = (encoded(*dialogues, limit=limit, parse=parse)[0] for parse in (False, True))
        assert plain.input_ids.tolist() == parsed.input_ids.tolist()
        assert plain.outcomes.tolist() == parsed.outcomes.tolist()


# ---- prompts at inference


@pytest.mark.parametrize("template", [TURN, FRAME, ALPACA_ZH, ALPACA_ZH_2])
def test_the_prompt_at_inference_is_the_one_that_is_trained(template):
    for dialogue in (turns("q", "a"), turns("q", "a", "r</s>", "b", system="s")):
        examples, _ = encoded(dialogue, template=template)
        ids, supervised = examples.row(0)
        begin_of_last = int(np.flatnonzero(~supervised)[-1]) + 1
        assert prompt_ids(TOKENIZER, template, dialogue[:-1]) == ids[:begin_of_last].tolist()


# ---- what is left out, in order


class _Refusing:
    """A template that refuses what begins with !"""

    name, end, control_tokens = "refusing", None, ()

    def identity(self):
        return ""

    writes_bos = False

    def render(self, dialogue, tools=(), more=None):
        if dialogue[0].text.startswith("!"):
            raise TemplateFault("refused")
        return FRAME.render(dialogue)


def test_rows_that_are_left_out_are_listed_in_order():
    long = turns("a", "v" * 50)
    examples, dropped = encoded(
        long, turns("!", "a"), long, turns("q", "a"), template=_Refusing(), limit=20, truncation=Truncation.DROP
    )
    assert [(one.row, one.reason) for one in dropped] == [
        *((0, "longer than max_seq_length"), (1, "refused"), (2, "longer than max_seq_length")),
    ]
    assert examples.rows.tolist() == [3]
    assert text_runs(examples, 0, TOKENIZER) == [("<<<s>>>[q]", 0), ("a<<</s>>>", 1)]


def test_a_fault_after_turns_are_lost_leaves_the_row_out():
    dialogue = turns("q" * 30, "a", "!", "b")
    examples, dropped = encoded(dialogue, turns("q", "a"), template=_Refusing(), limit=20)
    assert [(one.row, one.reason) for one in dropped] == [(0, "refused")]
    assert examples.rows.tolist() == [1]


def test_no_advice_on_the_length_where_it_is_not_the_reason():
    with pytest.raises(DataError) as caught:
        encoded(turns("!", "a"), template=_Refusing())
    assert str(caught.value) == "none of the 1 rows can be trained on (refused: 1)"


def test_an_answer_whose_first_character_does_not_fit_is_cut_within_it(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path))
    (prompt,) = tokenizer.encode([ALPACA_ZH.prompt("")])
    examples, _ = encode(made(turns("", "龘龘")), tokenizer, EncodingOptions(ALPACA_ZH, 1 + len(prompt) + 3))
    assert examples.num_supervised().tolist() == [3]  # the blank of sentencepiece, and two bytes of three
    assert examples.num_with(RowOutcome.ANSWER_CUT_OPEN) == 1
    whole, _ = encode(made(turns("", "龘龘")), tokenizer, EncodingOptions(ALPACA_ZH, 1 + len(prompt) + 6))
    assert tokenizer.decode(whole.input_ids[whole.supervised].tolist()) == "龘"
    assert whole.num_supervised().tolist() == [4]


def test_no_turn_is_lost_for_a_frame_that_the_first_turn_left_does_not_have():
    template = FrameTemplate("long", opening="{system}", opening_without_system="", after_user="]", between="=======")
    dialogue = turns("abc", "d", "e", "f", "g", "h")
    (row,) = texts(dialogue, template=template, limit=16)  # BOS, e]f$ and =======g]h$
    assert row == [("<<<s>>>e]", 0), ("f<<</s>>>", 1), ("=======g]", 0), ("h<<</s>>>", 1)]
    (row,) = texts(dialogue, template=template, limit=15)
    assert row == [("<<<s>>>g]", 0), ("h<<</s>>>", 1)]


def test_an_untrained_last_answer_does_not_hide_the_end_of_the_one_before():
    turns = (
        Turn("user", "a", trained=False),
        Turn("assistant", "b", trained=True),
        Turn("user", "c", trained=False),
        Turn("assistant", "d", trained=False),
    )
    examples, _ = encode([Record("rows.json", 0, turns)], tiny.characters(), EncodingOptions(FRAME, 100))
    assert examples.ends_trained([EOS]).tolist() == [True]
    assert examples.ends_trained([EOS + 1]).tolist() == [False]
