"""No system prompt, where the template has one of its own: asked for by an empty one, in every verb."""

import json

import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.chat_templates import QWEN25
from tests.command import yangtuo
from yangtuo.data.tokenizer import open_tokenizer

OWN = "Below is an instruction"
KEEPS = QWEN25.replace("== 'system' %}", "== 'system' and messages[0].content %}", 1)
SAID = "the tokenizer's chat template takes an empty system prompt for none given, and writes its own"


@pytest.fixture
def encoded(inputs, tmp_path):
    """What `encode` makes of rows: the text of each row's ids, and what was said."""

    def call(rows, *words, tokenizer=None):
        tiny.write_rows(tmp_path / "rows.json", rows)
        folder = tokenizer or inputs.base
        words = [*words, "--tokenizer_name_or_path", folder, "--data_cache_dir", tmp_path / "cache"]
        done = yangtuo("encode", "--dataset_dir", tmp_path / "rows.json", "--out", "-", *words)
        assert done.code == 0, done.said
        opened = open_tokenizer(folder)
        ids = [json.loads(line)["input_ids"] for line in done.out.splitlines()]
        pieces = [[(opened.name_of(i) or "").encode() or opened.bytes_of(i) for i in row] for row in ids]
        return [b"".join(row).decode() for row in pieces], done.err

    return call


@pytest.fixture
def own_template(tmp_path):
    """A tokenizer with a chat template of its own."""

    def make(source):
        folder = tiny.tiny_json_tokenizer(tmp_path / "tokenizer")
        (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
        return folder

    return make


ROW = {"instruction": "问", "output": "答"}
WITHOUT = "<s> ### Instruction:\n问\n\n### Response:  答</s>"  # a blank of sentencepiece before each text


def test_a_row_or_an_option_asks_for_none(encoded, tmp_path):
    systems = ["", None, "令"]
    (plain, empty, null, told), said = encoded([ROW, *({**ROW, "system": system} for system in systems)])
    assert plain == null
    assert OWN in plain
    assert empty == WITHOUT
    assert told == f"<s> 令\n\n{WITHOUT.removeprefix('<s> ')}"
    assert "  1 rows ask for no system prompt (theirs is empty, not left out)\n" in said
    (tmp_path / "run.yaml").write_text('system_prompt: ""\n')
    for words in (["--system_prompt", ""], ["--system_prompt="], [tmp_path / "run.yaml"]):
        (plain, empty, told), said = encoded([ROW, {**ROW, "system": ""}, {**ROW, "system": "令"}], *words)
        assert plain == empty == WITHOUT
        assert "令" in told
        assert "counts as not given" not in said
    (tmp_path / "run.yaml").write_text("system_prompt:\n")
    assert OWN in encoded([ROW], tmp_path / "run.yaml")[0][0]


def test_the_tokenizers_own_template_decides(encoded, own_template):
    """As transformers renders it, to the letter."""
    folder = own_template(QWEN25)
    reference = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=QWEN25)
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "问"}]
    expected = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) + "答<|im_end|>"
    for rows, words in (([{**ROW, "system": ""}], []), ([ROW], ["--system_prompt", ""])):
        (text,), said = encoded(rows, *words, tokenizer=folder)
        assert text == expected
        assert "Qwen" not in text
        assert SAID not in said
    assert "You are Qwen" in encoded([ROW], tokenizer=folder)[0][0]


def test_a_template_that_writes_its_own_all_the_same_is_told_of_once(encoded, own_template):
    folder = own_template(KEEPS)
    (text,), said = encoded([ROW], "--system_prompt", "", tokenizer=folder)
    assert "You are Qwen" in text
    assert said.count(f'--system_prompt "": {SAID}') == said.count(SAID) == 1
    _, said = encoded([ROW, {**ROW, "system": ""}], tokenizer=folder)
    assert said.count(f"data: 1 rows have an empty system prompt: {SAID}") == said.count(SAID) == 1


def test_check_tells_the_templates_own_with_its_text(run, inputs, own_template):
    options = inputs.options(None, output_dir=None, max_steps=None)
    qwen = ["--tokenizer_name_or_path", own_template(QWEN25), "--template", "tokenizer"]
    said = run("check", *options, *qwen)
    assert "rows without a system prompt get: You are Qwen, created by Alibaba Cloud." in " ".join(said.split())
    assert '(--system_prompt "" for none)' in said
    said = run("check", *options, *qwen, "--system_prompt", "")
    assert "rows without a system prompt" not in said
    said = run("check", *options, "--template", "alpaca_zh")
    assert f"rows without a system prompt get: {OWN}" in " ".join(said.split())


def test_it_travels_with_the_adapter_and_is_part_of_the_recipe(inputs, tmp_path):
    out = tmp_path / "out"
    assert yangtuo("train", *inputs.options(out, max_steps=1, system_prompt="")).code == 0
    known = json.loads((out / "sft_lora_model" / "yangtuo.json").read_text(encoding="utf-8"))
    assert known["template"]["default_system"] == ""
    done = yangtuo("train", *inputs.options(out, max_steps=1))
    assert done.code == 2
    assert "template: " in done.err

    def asked(*words):
        answer = yangtuo("chat", *words, "--ask", "问", "--json", "--max_new_tokens", 1)
        assert answer.code == 0, answer.said
        return json.loads(answer.out)["num_prompt_tokens"]

    def tokens(text):
        opened = open_tokenizer(inputs.base)
        return 1 + len(opened.encode([text])[0])

    without = tokens("### Instruction:\n问\n\n### Response: ")
    usual = tokens(f"{tiny.ALPACA_ZH.default_system}\n\n### Instruction:\n问\n\n### Response: ")
    assert asked(out) == without
    assert asked(inputs.base, "--template", "alpaca_zh") == usual > without
    assert asked(inputs.base, "--template", "alpaca_zh", "--system_prompt", "") == without
    words = ["--model_name_or_path", inputs.base, "--peft_path", out / "sft_lora_model"]
    assert yangtuo("export", *words, "--output_dir", tmp_path / "exported").code == 0
    assert (tmp_path / "exported" / "prompt.txt").read_text(encoding="utf-8").startswith("### Instruction:\n")
    assert asked(tmp_path / "exported") == without


def test_an_export_can_leave_it_out(inputs, tmp_path):
    assert yangtuo("train", *inputs.options(tmp_path / "out", max_steps=1)).code == 0
    words = ["--model_name_or_path", inputs.base, "--peft_path", tmp_path / "out" / "sft_lora_model"]
    assert yangtuo("export", *words, "--output_dir", tmp_path / "a").code == 0
    assert yangtuo("export", *words, "--output_dir", tmp_path / "b", "--system_prompt", "").code == 0
    texts = [(tmp_path / name / "prompt.txt").read_text(encoding="utf-8") for name in "ab"]
    assert texts[0].startswith(OWN)
    assert texts[1] == "### Instruction:\n{instruction}\n\n### Response: "
    assert OWN not in (tmp_path / "b" / "chat_template.jinja").read_text(encoding="utf-8")
    assert OWN not in (tmp_path / "b" / "Modelfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["peft_path", "template", "tokenizer_name_or_path"])
def test_other_options_that_are_empty_are_not_given(name, inputs):
    done = yangtuo("check", *inputs.options(None, output_dir=None, **{name: ""}))
    assert f"--{name} is empty and counts as not given" in done.err
