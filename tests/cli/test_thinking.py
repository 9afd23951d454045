"""A template that thinks, from a row with thoughts and tools to what chat and a server ask."""

import json

import pytest

from tests import served_templates, tiny
from tests.command import yangtuo
from tests.unit.data.test_as_served import made_folder
from yangtuo.config.schema import ModelArguments
from yangtuo.data.records import Turn
from yangtuo.data.template_json import from_values
from yangtuo.inference import load
from yangtuo.model.processor import detect_hardware

OFF = '{"enable_thinking": false}'
CLOSED = "<think>\n\n</think>\n\n"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"function": {"name": "weather", "arguments": '{"city": "北京"}'}}


def said(role, content, **more):
    return {"role": role, "content": content, **more}


ROWS = [
    {
        "messages": [
            *(said("user", "一加一？"), said("assistant", "二。")),
            *(said("user", "再加一？"), said("assistant", "三。")),
        ]
    },
    {"messages": [said("user", "你好"), said("assistant", "你好！", reasoning_content="打招呼。")]},
    {
        "messages": [
            said("user", "北京天气？"),
            said("assistant", None, tool_calls=[CALL]),
            said("tool", {"temp": 20}),
            said("assistant", "二十度。"),
        ],
        "tools": json.dumps([TOOL]),
    },
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thinking")
    made_folder(folder, served_templates.QWEN35)
    return tiny.tiny_llama(folder, num_rows=480)


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    """A run on rows without thoughts, asked without them."""
    folder = tmp_path_factory.mktemp("run")
    rows = tiny.write_rows(folder / "rows.json", [ROWS[0], ROWS[2]] * 3)
    words = ["--model_name_or_path", base, "--dataset_dir", rows, "--output_dir", folder / "out", "--max_steps", 2]
    words += ["--chat_template_kwargs", OFF, "--use_cpu", "--max_seq_length", 512, "--learning_rate", "1e-3"]
    done = yangtuo("train", *words)
    assert done.code == 0, done.said
    return folder / "out", done.said


def test_check_says_what_the_template_does_with_the_history(base, tmp_path):
    rows = tiny.write_rows(tmp_path / "rows.json", ROWS)
    words = ["check", "--model_name_or_path", base, "--dataset_dir", rows, "--max_seq_length", 512]
    done = yangtuo(*words)
    assert done.code == 0, done.said
    assert "1 dialogues whose earlier answers the template renders otherwise in the history" in done.said
    assert "each is an example of its own, as a server would ask for it: 1 examples more" in done.said
    assert "2 rows with an empty block for thoughts before an answer, which carries no loss" in done.said
    one = yangtuo(*words, "--history", "one_example")
    assert "the last ones alone carry a loss (--history one_example)" in one.said


def test_what_the_template_is_given_travels_with_the_adapter(run):
    folder, _ = run
    about = json.loads((folder / "sft_lora_model" / "yangtuo.json").read_text(encoding="utf-8"))
    assert from_values(about["template"]).kwargs == {"enable_thinking": False}
    jinja = (folder / "sft_lora_model" / "chat_template.jinja").read_text(encoding="utf-8")
    assert jinja.startswith("{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}")


def test_a_server_that_is_told_nothing_asks_as_training_did(run):
    from transformers import AutoTokenizer

    folder, log = run
    theirs = AutoTokenizer.from_pretrained(folder / "sft_lora_model")
    asked = [said("user", "你好")]
    assert theirs.apply_chat_template(asked, add_generation_prompt=True, tokenize=False).endswith(CLOSED)
    thinking = theirs.apply_chat_template(asked, add_generation_prompt=True, tokenize=False, enable_thinking=True)
    assert thinking.endswith("<think>\n")
    assert "makes the token ids of training" in log


@pytest.mark.parametrize(("kwargs", "end"), [(None, CLOSED), ({"enable_thinking": True}, "<think>\n")])
def test_chat_asks_as_training_did_unless_it_is_told_otherwise(run, kwargs, end):
    model = ModelArguments()
    places = load.places_of_adapter(run[0] / "sft_lora_model", model)
    opened = load.open_model(places, model, None, detect_hardware(use_cpu=True), None, kwargs)
    (asked,) = opened.template.prompt_of([Turn("user", "你好", trained=False)])
    assert asked.after.endswith(f"assistant\n{end}")
    words = ["--chat_template_kwargs", json.dumps(kwargs)] if kwargs else []
    done = yangtuo("chat", run[0], "--ask", "你好", "--max_new_tokens", 4, "--use_cpu", *words)
    assert done.code == 0, done.said


@pytest.mark.parametrize("verb", ["chat", "train", "export"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("{no", "--chat_template_kwargs {no: broken JSON"),
        ("[1]", "--chat_template_kwargs [1]: expected a JSON object"),
        ('{"thinks": 1}', "the tokenizer's chat template does not use thinks; it knows: enable_thinking"),
    ],
)
def test_what_is_no_setting_of_the_template_is_one_line(verb, given, told, base, tmp_path):
    rows = tiny.write_rows(tmp_path / "rows.json", ROWS)
    words = {
        "chat": [base, "--ask", "x"],
        "train": ["--model_name_or_path", base, "--dataset_dir", rows, "--output_dir", tmp_path / "o"],
        "export": ["--model_name_or_path", base, "--output_dir", tmp_path / "e"],
    }
    done = yangtuo(verb, *words[verb], "--chat_template_kwargs", given)
    assert done.code == 2, done.said
    assert told in done.said
    assert "Traceback" not in done.said
