import json

import pytest

from tests import tiny
from tests.dialogues import records, turns
from yangtuo.data.control_tokens import SpecialText, split_as_transformers, split_at_controls
from yangtuo.data.tokenizer import Spelled, open_tokenizer

CONTROLS = {"<s>": 1, "</s>": 2, "<|a|>": 7, "<|a|>b": 8, "<zero>": 0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("plain", ["plain"]),
        ("<s>", [1]),
        ("<s></s>", [1, 2]),
        ("x</s> y", ["x", 2, " y"]),
        ("<zero>x", [0, "x"]),  # an id of 0 is an id
        ("<|a|>b<|a|>c", [8, 7, "c"]),  # the longest is meant
        ("<S> </ s>", ["<S> </ s>"]),
        ("\n<s>\n", ["\n", 1, "\n"]),
    ],
)
def test_split(text, expected):
    assert split_at_controls(text, CONTROLS) == expected
    assert split_as_transformers(text, {name: Spelled(i, False, False) for name, i in CONTROLS.items()}) == expected


def test_split_without_controls():
    assert split_at_controls("<s>", {}) == split_as_transformers("<s>", {}) == ["<s>"]
    assert split_at_controls("", {}) == split_as_transformers("", {}) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x [P] y", ["x", 9, "y"]),
        ("x \n[P]\t\u3000y ", ["x", 9, "y "]),
        (" [P] ", [9]),
        ("[P] [P]", [9, 9]),
        ("x <L> y", ["x", 5, " y"]),
        ("x <R> y", ["x ", 6, "y"]),
        ("x <K> y", ["x ", 4, " y"]),
        ("<K> [P] <K>", [4, 9, 4]),
    ],
)
def test_tokens_that_swallow_blanks(text, expected):
    spelled = {
        "[P]": Spelled(9, strips_left=True, strips_right=True),
        "<L>": Spelled(5, strips_left=True, strips_right=False),
        "<R>": Spelled(6, strips_left=False, strips_right=True),
        "<K>": Spelled(4, strips_left=False, strips_right=False),
    }
    assert split_as_transformers(text, spelled) == expected


def count(*dialogues, controls=CONTROLS):
    counts = {}
    special = SpecialText(controls)
    found = [special.count_in(record, counts) for record in records(*dialogues)]
    return found, counts


def test_each_text_counts_once_a_record():
    found, counts = count(turns("</s></s>", "</s><s>"), turns("a", "</s>"), turns("plain", "plain"))
    assert found == [True, True, False]
    assert counts == {"</s>": 2, "<s>": 1}


@pytest.mark.parametrize("where", ["system", "user", "answer", "history"])
def test_it_is_found_in_every_turn(where):
    texts = {name: "x<|a|>" if name == where else "x" for name in ("system", "user", "answer", "history")}
    dialogue = turns(texts["history"], "x", texts["user"], texts["answer"], system=texts["system"])
    assert count(dialogue) == ([True], {"<|a|>": 1})


@pytest.mark.parametrize(
    "text", ["</s>", "[INST]", "<<SYS>>", "### Response:", "### Instruction:", "<|im_end|>", "<|eot_id|>", "[PAD]"]
)
def test_well_known_texts_are_counted_whatever_the_tokenizer_has(text):
    assert count(turns(f"a{text}b", "c"), controls={}) == ([True], {text: 1})


@pytest.mark.parametrize("text", ["", "### response", "[inst]", "</ s>", "<", "s>"])
def test_what_is_not_counted(text):
    assert count(turns(text, "c")) == ([False], {})


# ---- which tokens a folder's texts are read for


def folder_with(tmp_path, make, **files):
    folder = make(tmp_path)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return open_tokenizer(folder)


def test_tokens_of_2023_swallow_blanks_but_for_those_of_llama(tmp_path):
    tokenizer = folder_with(tmp_path, tiny.tiny_sentencepiece, added_tokens={"[PAD]": 480})
    assert tokenizer.spelled == {
        "<unk>": Spelled(0, strips_left=False, strips_right=False),
        "<s>": Spelled(1, strips_left=False, strips_right=False),
        "</s>": Spelled(2, strips_left=False, strips_right=False),
        "[PAD]": Spelled(480, strips_left=True, strips_right=True),
    }


@pytest.mark.parametrize(
    "files",
    [
        {"special_tokens_map": {"pad_token": {"content": "[PAD]", "lstrip": False, "rstrip": True}}},
        {
            "tokenizer_config": {
                "added_tokens_decoder": {"480": {"content": "[PAD]", "lstrip": False, "rstrip": True, "special": True}}
            }
        },
    ],
)
def test_tokens_that_are_declared_strip_what_they_say(tmp_path, files):
    tokenizer = folder_with(tmp_path, tiny.tiny_sentencepiece, added_tokens={"[PAD]": 480}, **files)
    assert tokenizer.spelled["[PAD]"] == Spelled(480, strips_left=False, strips_right=True)


def test_a_json_tokenizer_says_for_each_token(tmp_path):
    content = json.loads((tiny.tiny_json_tokenizer(tmp_path) / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"][0]["lstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    tokenizer = open_tokenizer(tmp_path)
    assert set(tokenizer.spelled) == set(tokenizer.controls) == {"<|im_start|>", "<|im_end|>", "<think>"}
    assert tokenizer.spelled["<|im_start|>"][1:] == (True, False)
    assert tokenizer.spelled["<|im_end|>"][1:] == (False, False)


def test_the_names_of_tokens_are_those_of_the_configuration(tmp_path):
    tokenizer = folder_with(
        tmp_path,
        tiny.tiny_sentencepiece,
        tokenizer_config={
            "bos_token": {"content": "<s>"},
            "eos_token": "</s>",
            "pad_token": None,
            "add_bos_token": False,
        },
        special_tokens_map={"unk_token": "<unk>", "eos_token": "other"},
    )
    assert tokenizer.names == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert tokenizer.bos_id is None
