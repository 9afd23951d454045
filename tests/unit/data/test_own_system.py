"""System prompts that a template has of its own: told with their text, and left out where none is asked for."""

import pytest

from tests import chat_templates
from tests.dialogues import controlled, records, turns
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.own_system import own_system
from yangtuo.data.template_choice import choose_template, with_system
from yangtuo.data.templates import ALPACA_ZH_2, TEMPLATES

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Facts stand in the system turn, whatever the system prompt is.
LLAMA31 = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set told = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set told = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\n' }}"
    "{{- told + '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
LLAMA2_OWN = chat_templates.LLAMA2.replace("set system_message = false", "set system_message = '要诚实。'")
SOURCES = {**chat_templates.USABLE, "smollm2": SMOLLM2, "llama31": LLAMA31, "llama2 of its own": LLAMA2_OWN}
TOLD = {
    "qwen25": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "smollm2": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "llama31": "Cutting Knowledge Date: December 2023",
    "llama2 of its own": "要诚实。",
}


def opened(name, system_prompt=None):
    """A tokenizer, with a chat template where it is one's name, and the template."""
    tokenizer = controlled(*chat_templates.CONTROLS, chat_template=SOURCES.get(name))
    named = "tokenizer" if name in SOURCES else name
    return tokenizer, choose_template(named, tokenizer, system_prompt)[0]


def text_of(dialogue, name, system_prompt=None):
    tokenizer, template = opened(name, system_prompt)
    examples, dropped = encode(records(dialogue), tokenizer, EncodingOptions(template, 1000))
    assert dropped == []
    return "".join(tokenizer.name_of(i) or chr(i - 3) for i in examples.row(0)[0].tolist())


@pytest.mark.parametrize("name", SOURCES)
def test_a_chat_templates_own_is_told(name):
    assert own_system(opened(name)[1]) == TOLD.get(name, "")


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_frame_templates_own_is_told(template):
    assert own_system(template) == (template.default_system or "")


def test_what_a_user_sets_in_its_place_is_told():
    assert own_system(with_system(ALPACA_ZH_2, "令")) == "令"
    assert own_system(opened("qwen25", "令")[1]) == "令"
    assert own_system(opened("llama2", "令")[1]) == "令"
    assert own_system(opened("llama31", "令")[1]) == "Cutting Knowledge Date: December 2023\n\n令"
    assert own_system(opened("qwen25", "")[1]) == ""
    assert own_system(with_system(ALPACA_ZH_2, "")) == ""


@pytest.mark.parametrize("name", [*SOURCES, *TEMPLATES])
def test_an_empty_one_means_none_by_the_option_and_by_the_row(name):
    by_row = text_of(turns("问", "答", system=""), name)
    assert by_row == text_of(turns("问", "答"), name, "")
    usual, own = text_of(turns("问", "答"), name), own_system(opened(name)[1])
    assert usual[usual.index("问") :] == by_row[by_row.index("问") :]
    if name == "llama31":  # whose facts are no system prompt
        assert own in by_row
    elif own:
        assert own in usual
        assert own not in by_row


def test_a_system_prompt_of_the_row_takes_its_place():
    for name, own in TOLD.items():
        text = text_of(turns("问", "答", system="令"), name)
        assert "令" in text
        assert (own in text) == (name == "llama31")
