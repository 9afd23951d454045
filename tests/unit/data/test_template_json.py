import json

import pytest

from tests import chat_templates
from tests.dialogues import controlled, turns
from yangtuo.data.template_choice import choose_template, with_kwargs
from yangtuo.data.template_json import from_values, to_values
from yangtuo.data.templates import TEMPLATES
from yangtuo.errors import DataError

OWN = controlled(*chat_templates.CONTROLS, chat_template=chat_templates.QWEN25)


@pytest.mark.parametrize("name", [*TEMPLATES, "tokenizer"])
@pytest.mark.parametrize("system", [None, "要有礼貌"])
def test_a_template_comes_back_from_json(name, system):
    template, _ = choose_template(name, OWN, system)
    again = from_values(json.loads(json.dumps(to_values(template))))
    assert again.identity() == template.identity()
    dialogue = turns("你好", "您好", "再见", "再见！")
    assert again.render(dialogue) == template.render(dialogue)


def test_what_a_template_is_given_travels_with_it_and_may_be_given_anew():
    tokenizer = controlled(*chat_templates.CONTROLS, chat_template=chat_templates.QWEN3)
    template, _ = choose_template("tokenizer", tokenizer, None, {"enable_thinking": False})
    again = from_values(json.loads(json.dumps(to_values(template))))
    assert again.kwargs == {"enable_thinking": False}
    assert again.identity() == template.identity() != choose_template("tokenizer", tokenizer, None)[0].identity()
    other = with_kwargs(again, {"enable_thinking": True})
    assert other.kwargs == {"enable_thinking": True}
    assert with_kwargs(again, None) is again
    without = {key: value for key, value in to_values(template).items() if key != "kwargs"}  # of an earlier version
    assert from_values(without).kwargs == {}


@pytest.mark.parametrize("values", [{}, {"kind": "poem"}, {"kind": "frames", "name": "x", "control_tokens": []}])
def test_others_are_refused(values):
    with pytest.raises(DataError, match="saved template"):
        from_values({"control_tokens": [], **values})
