"""Whoever opens what was saved, with transformers alone, asks the model as training did, or is told otherwise."""

import json
import shutil
from importlib.metadata import version

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests import tiny
from tests.chat_templates import QWEN25
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.model import provenance

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAVES = {"do_train": True, "do_eval": True, "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps"}
SAVES |= {"save_steps": 2, "max_steps": 4}
SINGLE = (["请介绍一下长城。"], ["What is 2 + 3?"])
DIALOGUES = (["你好", "I am an assistant.", "再见"], ["a", "b c", "d", "2 + 3 = 5.", "为什么？"])
TRANSFORMERS = f"prompts: transformers {version('transformers')}"
EQUAL = f"{TRANSFORMERS} makes the token ids of training in all dialogues that were tried."
APART = f"{TRANSFORMERS} makes the token ids of training from single questions; in "
OTHER = f"{TRANSFORMERS} makes other token ids than training from 13 of 13 dialogues (the same text in other tokens"
OWN_WAY = "; `yangtuo chat` asks as training did."


@pytest.fixture(scope="module")
def chatml_base(tmp_path_factory):
    """A base whose tokenizer has a chat template in both of the places that there are for it, and that samples."""
    folder = tiny.tiny_json_tokenizer(tiny.tiny_llama(tmp_path_factory.mktemp("models") / "base"))
    config = {"eos_token": "<think>", "chat_template": [{"name": "default", "template": CHATML}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(QWEN25, encoding="utf-8")
    values = {"do_sample": True, "temperature": 0.6, "eos_token_id": 7}
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def last_but_page(said):
    """The last line, but for the one that names the run's page."""
    return [line for line in said.splitlines() if not line.startswith("report: ")][-1]


def theirs(folder, texts, system=None):
    """The prompt's ids as any program makes them."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    opened = AutoTokenizer.from_pretrained(folder)
    return list(opened.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"])


def ours(folder, texts, system=None):
    """The prompt's ids in training, by what the adapter tells of it."""
    turns = [] if system is None else [Turn("system", system, trained=False)]
    turns += [Turn(("user", "assistant")[i % 2], text, trained=False) for i, text in enumerate(texts)]
    return prompt_ids(open_tokenizer(folder), provenance.template_of(folder), turns)


def saved_by(train, run, base, out, **options):
    """All folders that a run and a merge leave, and what both have said."""
    said = train(out / "run", model_name_or_path=base, **SAVES, **options)
    adapter = out / "run" / "sft_lora_model"
    words = ["--model_name_or_path", base, "--peft_path", adapter, "--output_dir", out / "merged"]
    said_by_merge = run("merge", *words)
    run("export", *words[:-1], out / "exported")
    checkpoints = sorted((out / "run").glob("checkpoint-*"))
    assert checkpoints
    return [adapter, out / "run" / "best", *checkpoints, out / "merged", out / "exported"], said, said_by_merge


CASES = {
    "alpaca_zh": ({"template": "alpaca_zh"}, APART),
    "alpaca_zh, another system prompt": ({"template": "alpaca_zh", "system_prompt": "简短地回答。"}, APART),
    "alpaca_zh, none": ({"template": "alpaca_zh", "system_prompt": ""}, APART),
    "chatml": ({"template": "chatml"}, EQUAL),
    "chatml, a system prompt": ({"template": "chatml", "system_prompt": '"简短"\n地回答。'}, EQUAL),
    "the tokenizer's own": ({"template": "tokenizer"}, EQUAL),
    "the tokenizer's own, another system prompt": ({"template": "tokenizer", "system_prompt": "简短地回答。"}, EQUAL),
}


@pytest.mark.parametrize(("options", "told"), CASES.values(), ids=CASES)
def test_what_is_saved_asks_as_training_did(train, run, inputs, chatml_base, tmp_path, options, told):
    options = {**options, "validation_file": inputs.validation}
    folders, said, said_by_merge = saved_by(train, run, chatml_base, tmp_path, **options)
    of_base = [theirs(chatml_base, texts) for texts in SINGLE]
    for folder in folders:
        for texts in SINGLE:
            assert theirs(folder, texts) == ours(folders[0], texts)
            assert theirs(folder, texts, "令") == ours(folders[0], texts, "令")
        if told == EQUAL:
            for texts in DIALOGUES:
                assert theirs(folder, texts) == ours(folders[0], texts)
        else:  # what is said is so
            assert [theirs(folder, texts) for texts in SINGLE] != of_base
            assert any(theirs(folder, texts) != ours(folders[0], texts) for texts in DIALOGUES)
        assert told.removeprefix("prompts: ") in (folder / "README.md").read_text(encoding="utf-8")
        assert ours(folder, SINGLE[0]) == ours(folders[0], SINGLE[0])
    for text in (said, said_by_merge):
        assert last_but_page(text).startswith(told)
        assert told == EQUAL or last_but_page(text).endswith(OWN_WAY)


def test_the_end_token_of_training_is_in_the_generation_config(train, run, inputs, chatml_base, tmp_path):
    options = {"template": "chatml", "validation_file": inputs.validation}
    folders, _, _ = saved_by(train, run, chatml_base, tmp_path, **options)
    tokenizer = open_tokenizer(chatml_base)
    ends = [tokenizer.id_of("<|im_end|>"), tokenizer.id_of("<think>")]
    for folder in folders:
        values = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        assert values == {"do_sample": True, "temperature": 0.6, "eos_token_id": ends}
        assert GenerationConfig.from_pretrained(folder).eos_token_id == ends


def test_a_checkpoint_lists_what_asks_it(train, inputs, chatml_base, tmp_path):
    train(model_name_or_path=chatml_base, validation_file=inputs.validation, **SAVES)
    checkpoint, adapter = tmp_path / "out" / "checkpoint-4", tmp_path / "out" / "sft_lora_model"
    sizes = json.loads((checkpoint / "complete.json").read_text(encoding="utf-8"))["files"]
    for name in ("chat_template.jinja", "generation_config.json"):
        assert sizes[name] == (adapter / name).stat().st_size
    assert sizes["README.md"] == (checkpoint / "README.md").stat().st_size  # the adapter's tells of the proof too
    assert sizes["chat_template.jinja"] != len(CHATML.encode())


def test_the_tokenizer_of_an_adapter_is_known_again(train, run, inputs, chatml_base, tmp_path):
    first = tmp_path / "first" / "sft_lora_model"
    for template, name in (("alpaca_zh", "alpaca_zh"), ("tokenizer", "tokenizer")):
        shutil.rmtree(tmp_path / "first", ignore_errors=True)
        train(tmp_path / "first", model_name_or_path=chatml_base, template=template, system_prompt="短")
        record = json.loads((first / "yangtuo.json").read_text(encoding="utf-8"))
        assert open_tokenizer(first).sha256() == record["tokenizer"]["sha256"] == open_tokenizer(chatml_base).sha256()
        assert open_tokenizer(first).chat_template != QWEN25
        for words in ({}, {"template": "auto"}, {"template": "tokenizer"}):
            out = tmp_path / f"{template} {len(words)} {words.get('template')}"
            said = train(out, model_name_or_path=chatml_base, peft_path=first, **words)
            assert f"template: {name} (auto: {first} was trained with it)" in said
            assert "it will learn to be asked otherwise" not in said
            again = json.loads((out / "sft_lora_model" / "yangtuo.json").read_text(encoding="utf-8"))
            assert (again["template"], again["tokenizer"]) == (record["template"], record["tokenizer"])
            new, old = (place / "chat_template.jinja" for place in (out / "sft_lora_model", first))
            assert new.read_bytes() == old.read_bytes()
        assert f"template: {name} (auto: {first} was trained with it)" in run("chat", first, "--ask", "你好")


def test_another_template_than_that_of_training_is_said_once(train, run, inputs, chatml_base, tmp_path):
    train(model_name_or_path=chatml_base, template="alpaca_zh")
    adapter = tmp_path / "out" / "sft_lora_model"
    words = ["--model_name_or_path", chatml_base, "--peft_path", adapter, "--output_dir"]
    run("merge", *words, tmp_path / "merged")
    for folder in (adapter, tmp_path / "merged"):
        told = f"template: chatml as asked for; {folder} was trained with alpaca_zh, or another system prompt"
        assert run("chat", folder, "--ask", "你好", "--template", "chatml").count(told) == 1
        assert "as asked for" not in run("chat", folder, "--ask", "你好", "--template", "alpaca_zh")
    said = run("export", *words, tmp_path / "a", "--template", "chatml")
    assert said.count(f"template: chatml as asked for; {adapter} was trained with alpaca_zh") == 1
    assert "as asked for" not in run("export", *words, tmp_path / "b", "--template", "alpaca_zh")


def test_a_vocabulary_that_transformers_converts_is_said(train, run, inputs, tmp_path):
    folders, said, said_by_merge = saved_by(
        train, run, inputs.base, tmp_path, template="alpaca_zh", validation_file=inputs.validation
    )
    for folder in folders:
        assert theirs(folder, SINGLE[0]) != ours(folders[0], SINGLE[0])  # else there would be nothing to say
        assert OTHER.removeprefix("prompts: ") in (folder / "README.md").read_text(encoding="utf-8")
    for text in (said, said_by_merge):
        assert last_but_page(text).startswith(OTHER)
        assert last_but_page(text).endswith(f" of tokenizer.model, which it converts){OWN_WAY}")


def test_an_adapter_of_another_program_is_merged_with_the_bases_own_prompt(run, chatml_base, tmp_path):
    adapter = tiny.tiny_adapter(tmp_path / "ours", chatml_base)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(chatml_base), adapter)
    model.save_pretrained(tmp_path / "theirs")
    words = ["--model_name_or_path", chatml_base, "--peft_path", tmp_path / "theirs", "--output_dir"]
    said = run("merge", *words, tmp_path / "merged")
    assert "prompts: no adapter tells the template of its training; the tokenizer's own is kept" in said
    for name in ("chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (chatml_base / name).read_bytes()
