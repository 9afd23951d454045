import json
from dataclasses import replace

import pytest

from tests import chat_templates
from tests.dialogues import controlled, turns
from yangtuo.data.template_choice import choose_template
from yangtuo.data.templates import ALPACA_ZH, ALPACA_ZH_2, CHATML, LLAMA3, TEMPLATES
from yangtuo.errors import TokenizerError, UsageError

LLAMA3_TOKENS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
OWN = controlled(*chat_templates.CONTROLS, chat_template=chat_templates.QWEN25)


@pytest.mark.parametrize(
    ("tokenizer", "expected", "why"),
    [
        (controlled(), ALPACA_ZH, "auto: the tokenizer has no chat template and no tokens of one"),
        (replace(controlled(), num_tokens=55_296), ALPACA_ZH_2, "auto: a vocabulary of 55,296, as Chinese-Alpaca-2's"),
        (replace(OWN, num_tokens=55_296), ALPACA_ZH_2, "auto: a vocabulary of 55,296, as Chinese-Alpaca-2's"),
        (replace(controlled(), num_tokens=55_295), ALPACA_ZH, "auto: the tokenizer has no chat template and no tokens"),
        (controlled(*LLAMA3_TOKENS), LLAMA3, "auto: the tokenizer has <|start_header_id|> and <|end_header_id|>"),
        (controlled(*CHATML_TOKENS), CHATML, "auto: the tokenizer has <|im_start|> and <|im_end|>"),
        (controlled(*LLAMA3_TOKENS[:2]), ALPACA_ZH, "auto: the tokenizer has no chat template and no tokens of one"),
        (controlled(CHATML_TOKENS[0]), ALPACA_ZH, "auto: the tokenizer has no chat template and no tokens of one"),
    ],
)
def test_auto(tokenizer, expected, why):
    template, told = choose_template("auto", tokenizer, None)
    assert template == expected
    assert told.startswith(why)


def test_auto_takes_the_tokenizers_own():
    template, why = choose_template("auto", OWN, None)
    assert (template.name, template.source) == ("tokenizer", chat_templates.QWEN25)
    assert why == "auto: the tokenizer brings its own chat template"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_name_is_taken_whatever_the_tokenizer_has(name):
    assert choose_template(name, OWN, None) == (TEMPLATES[name], "--template")


def test_a_file(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"opening": "{system}", "after_user": "", "between": "", "default_system": "s"}))
    template, why = choose_template(str(path), OWN, None)
    assert (template.default_system, why) == ("s", f"the file {path}")
    assert choose_template(str(path), OWN, "other")[0].default_system == "other"


def test_a_system_prompt_of_the_user_replaces_the_templates_own():
    template, _ = choose_template("alpaca_zh", controlled(), "要有礼貌")
    assert template.prompt("q") == "要有礼貌\n\n### Instruction:\nq\n\n### Response: "
    without, _ = choose_template("alpaca_zh", controlled(), "")
    assert without.prompt("q") == "### Instruction:\nq\n\n### Response: "
    assert template.identity() != without.identity() != ALPACA_ZH.identity()
    (exchange,) = choose_template("auto", OWN, "要有礼貌")[0].render(turns("q", "a"))[0].exchanges
    assert exchange.before[1].text == "要有礼貌"


def test_a_name_that_is_none(sentences):
    with pytest.raises(UsageError) as caught:
        choose_template("alpaca", controlled(), None)
    sentences(str(caught.value), "--template alpaca")


def test_the_tokenizers_own_where_it_has_none():
    with pytest.raises(UsageError, match="has no chat template; name another"):
        choose_template("tokenizer", controlled(), None)


def test_a_chat_template_that_cannot_be_used_says_what_to_do():
    tokenizer = replace(OWN, chat_template="nothing")
    with pytest.raises(TokenizerError, match="name another template"):
        choose_template("auto", tokenizer, None)


def test_the_names_of_the_configuration_are_those_of_the_template():
    source = "{{ bos_token }}{{ pad_token }}" + chat_templates.GENERATION
    tokenizer = replace(OWN, chat_template=source, bos_id=None, names={"bos_token": "<s>", "pad_token": "[PAD]"})
    (exchange,) = choose_template("tokenizer", tokenizer, None)[0].render(turns("q", "a"))[0].exchanges
    assert exchange.before[0].text.startswith("<s>[PAD]<|im_start|>")


def test_without_a_configuration_the_names_are_those_of_the_ids():
    source = "{{ bos_token }}{{ eos_token }}" + chat_templates.GENERATION
    template, _ = choose_template("tokenizer", replace(OWN, chat_template=source), None)
    (exchange,) = template.render(turns("q", "a"))[0].exchanges
    assert exchange.before[0].text.startswith("<s></s><|im_start|>")
