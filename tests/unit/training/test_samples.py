"""Which prompts are asked, in which ids; and that a model which has answered is as it was."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny
from yangtuo.config.parser import build_parser, parse
from yangtuo.data.encoding import EncodingOptions, encode, prompt_ids
from yangtuo.data.readers.reader import read
from yangtuo.data.records import Turn
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.engine.attention import PREFIX_SHARED
from yangtuo.errors import DataError, UsageError
from yangtuo.training import sample_prompts
from yangtuo.training.samples import _short, _shown, answering


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Tokenizer and template, as a run opens them."""
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("tokenizer")))
    return SimpleNamespace(tokenizer=tokenizer, template=ALPACA_ZH)


@pytest.fixture
def find(opened):
    def found(named, *words, validation=None, seed=0):
        needed = ["--dataset_dir", "d", "--output_dir", "o", "--do_eval", "--validation_file", "v"]
        settings = parse([*needed, "--sample_prompts", str(named), *words], build_parser("yangtuo train"))[0]
        return sample_prompts.find(settings, opened, validation, seed)

    return found


def asked(opened, *turns):
    return tuple(prompt_ids(opened.tokenizer, opened.template, turns))


def user(text):
    return Turn("user", text, trained=False)


def test_a_line_of_text_is_a_prompt(find, opened, tmp_path):
    (tmp_path / "p.txt").write_bytes("请介绍长城。\n\n  春天来了吗？\n".encode("gb18030"))
    found = find(tmp_path / "p.txt")
    assert [(one.text, one.ids, one.reference) for one in found] == [
        ("请介绍长城。", asked(opened, user("请介绍长城。")), ""),
        ("春天来了吗？", asked(opened, user("春天来了吗？")), ""),
    ]


@pytest.mark.parametrize(
    ("row", "turns", "reference"),
    [
        ({"instruction": "甲"}, [user("甲")], ""),
        ({"instruction": "甲", "input": "乙", "output": " 丙 "}, [user("甲\n乙")], "丙"),
        ({"prompt": "甲"}, [user("甲")], ""),
        ({"messages": [{"role": "user", "content": "甲"}]}, [user("甲")], ""),
        ({"conversations": [{"from": "human", "value": "甲"}]}, [user("甲")], ""),
        (
            {
                "messages": [
                    {"role": "system", "content": "子"},
                    {"role": "user", "content": "甲"},
                    {"role": "assistant", "content": "乙"},
                    {"role": "user", "content": "丙"},
                    {"role": "assistant", "content": "丁"},
                ]
            },
            [Turn("system", "子", trained=False), user("甲"), Turn("assistant", "乙", trained=False), user("丙")],
            "丁",
        ),
    ],
)
def test_a_row_is_asked_without_its_answer(row, turns, reference, find, opened, tmp_path):
    (tmp_path / "p.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (found,) = find(tmp_path / "p.jsonl")
    assert (found.text, found.ids, found.reference) == (turns[-1].text, asked(opened, *turns), reference)


def test_rows_of_the_validation_set_are_asked_in_their_own_ids(find, opened, tmp_path):
    rows = tiny.rows(12)
    records, _ = read([tiny.write_rows(tmp_path / "v.json", rows)])
    examples, _ = encode(records, opened.tokenizer, EncodingOptions(ALPACA_ZH, max_seq_length=512))
    found = find("validation", validation=examples)
    assert len(found) == 4
    places = [
        next(i for i in range(12) if tuple(examples.row(i)[0][: len(one.ids)]) == one.ids and one.ids) for one in found
    ]
    assert [place // 3 for place in places] == [0, 1, 2, 3]  # spread: one of each quarter
    for place, one in zip(places, found, strict=True):
        assert np.flatnonzero(examples.row(place)[1])[0] == len(one.ids)
        row = rows[place]
        assert one.text == "\n".join(filter(None, (row["instruction"], row["input"])))
        assert one.reference == row["output"]
    assert find("validation", validation=examples) == found
    assert any(find("validation", validation=examples, seed=seed) != found for seed in (1, 2, 3))
    assert len(find("validation:16", validation=examples)) == 12


@pytest.mark.parametrize(
    ("name", "text", "error", "told"),
    [
        ("p.txt", None, DataError, "no such file"),
        ("p.txt", "\n\n", UsageError, "no prompts"),
        ("p.txt", "问\n" * 17, UsageError, "more than 16 prompts"),
        ("p.md", "问", DataError, "rename it"),
        *((f"p{kind}", "问", DataError, "of a table, save the questions") for kind in (".csv", ".TSV", ".xlsx")),
        ("p.json", '[{"instruction": 3}]', DataError, "'instruction' is a number"),
        ("p.jsonl", '{"instruction": "甲"}\n{"instruction": ""}', DataError, "p.jsonl:2 row 1"),
        ("p.json", '[{"text": "甲"}]', DataError, "p.json"),
        ("p.json", "[{", DataError, "broken JSON"),
    ],
)
def test_files_that_cannot_be_used(name, text, error, told, find, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(error) as caught:
        find(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("named", ["validation:0", "validation:17"])
def test_some_rows_and_not_all(named, find):
    with pytest.raises(UsageError, match="give 1 to 16"):
        find(named)


def test_samples_need_evaluations():
    words = ["--model_name_or_path", "m", "--dataset_dir", "d", "--output_dir", "o", "--sample_prompts", "validation"]
    with pytest.raises(UsageError, match="--eval_strategy steps"):
        parse(words, build_parser("yangtuo train"))
    parse([*words, "--do_eval"], build_parser("yangtuo train"))
    parse([*words, "--eval_strategy", "epoch"], build_parser("yangtuo train"))


def test_a_prompt_has_to_leave_room_for_an_answer():
    prompt = sample_prompts.PromptRow("问", (1, 2, 3))
    sample_prompts.refuse_without_room([prompt], "p.txt", 4)
    sample_prompts.refuse_without_room([prompt], "p.txt", None)
    with pytest.raises(DataError, match="3 tokens"):
        sample_prompts.refuse_without_room([prompt], "p.txt", 3)


class TestAnswering:
    """Whatever happens inside, the model is as it was."""

    @pytest.fixture
    def model(self, tmp_path):
        model = AutoModelForCausalLM.from_pretrained(tiny.tiny_llama(tmp_path / "base"))
        model.train()
        model.model.layers[1].eval()  # modes may differ
        model.model.layers[0]._compiled_call_impl = self.compiled
        model.set_attn_implementation(PREFIX_SHARED)
        return model

    @staticmethod
    def compiled(*args, **kwargs):
        raise AssertionError("a compiled layer was called")

    @staticmethod
    def state(model):
        calls = [layer._compiled_call_impl for layer in model.model.layers]
        return [module.training for module in model.modules()], calls, model.config._attn_implementation

    @pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
    def test_it_is_as_it_was(self, error, model):
        before = self.state(model)
        with pytest.raises(error) if error else answering(model, "sdpa"), answering(model, "sdpa"):
            assert not any(module.training for module in model.modules())
            assert model.config._attn_implementation == "sdpa"
            model(torch.tensor([[1, 5, 6]]), use_cache=True)
            if error:
                raise error
        assert self.state(model) == before

    def test_the_compiled_layer_of_the_test_is_one(self, model):
        model.set_attn_implementation("sdpa")
        with pytest.raises(AssertionError, match="a compiled layer was called"):
            model(torch.tensor([[1, 5, 6]]))


def test_the_screen_has_short_lines_without_control_characters():
    one = {"prompt": "问\n题", "answer": "好" * 100, "base": "\x1b[31m红", "ended": False}
    lines = list(_shown(4, [one, {**one, "answer": "短", "ended": True}], 2.4, is_continued=False))
    assert lines[0] == "step 4  samples: 1 of 2 answers ended with the end token (2 s)"
    assert lines[1:4] == ["  1  问 题", "     base: \N{REPLACEMENT CHARACTER}[31m红", lines[3]]
    assert lines[3].startswith("     now: 好好好")
    assert lines[3].endswith("... (not ended)")
    assert lines[-1] == "     now: 短"
    assert list(_shown(4, [one], 2.4, is_continued=True))[2].startswith("     start: ")
    assert len(list(_shown(0, [one], 2.4, is_continued=False))) == 3
    assert _short("a" * 96) == "a" * 96
    assert _short("a" * 97) == "a" * 96 + "..."
