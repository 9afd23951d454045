"""Token ids equal to those of the original script on the same rows."""

import json

import pytest

from yangtuo.config.choices import Truncation
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.readers import reader
from yangtuo.data.readers.reader import ReadOptions
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer

from .conftest import SHARED

# Rows where the original turns a user's text into control ids, or a value that is no text into text. By contract
# text stays text, and a value that is no text is an error.
DIFFERENT_BY_CONTRACT = {
    "literal </s> spaced in output",
    "literal </s> in instruction",
    "literal [PAD] in instruction",
}
REFUSED_BY_CONTRACT = {"output integer (all records)"}


def golden(name):
    return json.loads((SHARED / "goldens" / name).read_text(encoding="utf-8"))


def encode_rows(rows, tmp_path, tokenizer, **options):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    read, _ = reader.read([file], ReadOptions(allow_empty_answers=True))  # as the original trains them
    return encode(read, open_tokenizer(tokenizer), EncodingOptions(ALPACA_ZH, **options))


@pytest.fixture(scope="module")
def chinese_rows():
    return json.loads((SHARED / "assets/alpaca_zh_dev.json").read_text(encoding="utf-8"))[:200]


def test_no_row_needs_cutting_at_512(chinese_rows, tmp_path, alpaca_tokenizer):
    expected = golden("encoded_zh_512.json")
    examples, _ = encode_rows(chinese_rows, tmp_path, alpaca_tokenizer, max_seq_length=512, truncation=Truncation.RIGHT)
    assert len(examples) == 200
    for i in range(200):
        ids, supervised = examples.row(i)
        assert ids.tolist() == expected[i]["input_ids"]
        assert int(supervised.argmax()) == expected[i]["num_prompt"]


def test_cut_from_the_right_at_64(chinese_rows, tmp_path, alpaca_tokenizer):
    expected = golden("encoded_zh_64_right.json")
    examples, dropped = encode_rows(
        chinese_rows, tmp_path, alpaca_tokenizer, max_seq_length=64, truncation=Truncation.RIGHT
    )
    without_label = [i for i in range(200) if expected[i]["num_prompt"] == len(expected[i]["input_ids"])]
    assert [one.row for one in dropped] == without_label  # the original trains on these without a loss
    assert examples.rows.tolist() == [i for i in range(200) if i not in set(without_label)]
    for i, row in enumerate(examples.rows):
        ids, supervised = examples.row(i)
        assert ids.tolist() == expected[row]["input_ids"]
        assert int(supervised.argmax()) == expected[row]["num_prompt"]


def test_edge_cases(tmp_path, alpaca_tokenizer):
    cases = [case for case in golden("encoded_edge_cases.json") if case["name"] not in REFUSED_BY_CONTRACT]
    assert len(cases) == 19
    examples, _ = encode_rows(cases, tmp_path, alpaca_tokenizer, max_seq_length=512, truncation=Truncation.RIGHT)
    control = {1, 2, 0, 49953}
    for i, case in enumerate(cases):
        ids, labels = examples.row(i)[0].tolist(), examples.labels(i).tolist()
        if case["name"] in DIFFERENT_BY_CONTRACT:
            assert ids != case["input_ids"], case["name"]
            assert set(case["input_ids"][1:-1]) & control, case["name"]
            assert not set(ids[1:-1]) & control, case["name"]
        else:
            assert ids == case["input_ids"], case["name"]
            assert labels == case["labels"], case["name"]


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_an_answer_that_is_no_text_is_refused(value, tmp_path, alpaca_tokenizer):
    from yangtuo.errors import DataError

    with pytest.raises(DataError, match="row 0: 'output' is "):
        encode_rows([{"instruction": "a", "output": value}], tmp_path, alpaca_tokenizer, max_seq_length=512)


def test_edge_cases_with_control_tokens_read_out_of_the_text_are_the_originals(tmp_path, alpaca_tokenizer):
    cases = [case for case in golden("encoded_edge_cases.json") if case["name"] not in REFUSED_BY_CONTRACT]
    options = {"max_seq_length": 512, "truncation": Truncation.RIGHT}
    examples, _ = encode_rows(cases, tmp_path, alpaca_tokenizer, parse_special_tokens=True, **options)
    for i, case in enumerate(cases):
        assert examples.row(i)[0].tolist() == case["input_ids"], case["name"]
        assert examples.labels(i).tolist() == case["labels"], case["name"]


def test_rows_without_control_tokens_are_the_same_when_they_are_read(chinese_rows, tmp_path, alpaca_tokenizer):
    expected = golden("encoded_zh_512.json")
    options = {"max_seq_length": 512, "truncation": Truncation.RIGHT, "parse_special_tokens": True}
    examples, _ = encode_rows(chinese_rows, tmp_path, alpaca_tokenizer, **options)
    for i in range(200):
        assert examples.row(i)[0].tolist() == expected[i]["input_ids"]


def test_blanks_beside_a_control_token(alpaca_tokenizer):
    """LLaMA's own three keep them, [PAD] swallows them, the frame's too; as in transformers 4.30."""
    tokenizer = open_tokenizer(alpaca_tokenizer)
    assert {text: tuple(one) for text, one in tokenizer.spelled.items()} == {
        "<s>": (1, False, False),
        "</s>": (2, False, False),
        "<unk>": (0, False, False),
        "[PAD]": (49953, True, True),
    }
