import json

import pytest

from tests import chat_templates
from tests.dialogues import controlled, turns
from yangtuo.data.template_choice import choose_template
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


@pytest.mark.parametrize("values", [{}, {"kind": "poem"}, {"kind": "frames", "name": "x", "control_tokens": []}])
def test_others_are_refused(values):
    with pytest.raises(DataError, match="saved template"):
        from_values({"control_tokens": [], **values})
