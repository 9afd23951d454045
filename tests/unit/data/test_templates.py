import json
import pickle

import pytest

from tests.dialogues import controlled, records, shown, turns
from yangtuo.data.encoding import EncodingOptions, encode, end_id
from yangtuo.data.records import Turn
from yangtuo.data.templates import ALPACA_ZH, ALPACA_ZH_2, CHATML, LLAMA3, TEMPLATES, FrameTemplate, read_template
from yangtuo.errors import DataError, TokenizerError

ALL_CONTROLS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def texts(template, *dialogues, **options):
    tokenizer = controlled(*ALL_CONTROLS, **options)
    examples, _ = encode(records(*dialogues), tokenizer, EncodingOptions(template, 10_000))
    return [shown(examples, i, tokenizer) for i in range(len(examples))]


# ---- the built-in ones, token by token


def test_alpaca_zh():
    sentence = (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    )
    assert texts(ALPACA_ZH, turns("q", "a", "r", "b"), turns("q", "a", system="s")) == [
        [
            (f"<<<s>>>{sentence}\n\n### Instruction:\nq\n\n### Response: ", 0),
            ("a<<</s>>>", 1),
            ("\n\n### Instruction:\nr\n\n### Response: ", 0),
            ("b<<</s>>>", 1),
        ],
        [("<<<s>>>s\n\n### Instruction:\nq\n\n### Response: ", 0), ("a<<</s>>>", 1)],
    ]


def test_alpaca_zh_2_has_a_bos_before_every_turn_and_one_before_the_first():
    system = "You are a helpful assistant. 你是一个乐于助人的助手。"
    assert texts(ALPACA_ZH_2, turns("q", "a", "r", "b"), turns("q", "a", system="s")) == [
        [
            (f"<<<s>>>[INST] <<SYS>>\n{system}\n<</SYS>>\n\nq [/INST]", 0),
            ("a<<</s>>>", 1),
            ("<<<s>>>[INST] r [/INST]", 0),
            ("b<<</s>>>", 1),
        ],
        [("<<<s>>>[INST] <<SYS>>\ns\n<</SYS>>\n\nq [/INST]", 0), ("a<<</s>>>", 1)],
    ]


def test_llama3():
    user, assistant = (f"<<<|start_header_id|>>>{role}<<<|end_header_id|>>>\n\n" for role in ("user", "assistant"))
    end = "<<<|eot_id|>>>"
    assert texts(LLAMA3, turns("q", "a", "r", "b"), turns("q", "a", system="s")) == [
        [
            (f"<<<s>>>{user}q{end}{assistant}", 0),
            (f"a{end}", 1),
            (f"{user}r{end}{assistant}", 0),
            (f"b{end}", 1),
        ],
        [
            (f"<<<s>>><<<|start_header_id|>>>system<<<|end_header_id|>>>\n\ns{end}{user}q{end}{assistant}", 0),
            (f"a{end}", 1),
        ],
    ]


def test_chatml():
    start, end = "<<<|im_start|>>>", "<<<|im_end|>>>"
    assert texts(CHATML, turns("q", "a", "r", "b"), turns("q", "a", system="s"), bos=False) == [
        [
            (f"{start}user\nq{end}\n{start}assistant\n", 0),
            (f"a{end}", 1),
            (f"\n{start}user\nr{end}\n{start}assistant\n", 0),
            (f"b{end}", 1),
        ],
        [(f"{start}system\ns{end}\n{start}user\nq{end}\n{start}assistant\n", 0), (f"a{end}", 1)],
    ]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_an_empty_system_prompt_of_a_row_means_none(template):
    (exchange,) = template.render(turns("q", "a", system=""))[0].exchanges
    assert "".join(piece.text for piece in exchange.before) == template.opening_without_system


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_braces_of_users_are_no_placeholders(template):
    (exchange,) = template.render(turns("{system}", "{user}", system="{system} {0}"))[0].exchanges
    assert (exchange.before[1].text, exchange.user, exchange.answer) == ("{system} {0}", "{system}", "{user}")
    assert template.prompt("{x}").endswith("{x}" + template.after_user)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_control_token_stands_only_where_the_frame_has_it(template):
    text = "".join((*ALL_CONTROLS, "<s>", "</s>", "[INST]", "### Response:"))
    dialogue = turns(text, text, text, text, system=text)
    tokenizer = controlled(*ALL_CONTROLS)
    plain = turns("q", "a", "q", "a", system="s")
    options = EncodingOptions(template, 10_000)
    examples, _ = encode(records(dialogue, plain), tokenizer, options)
    written, other = (
        [i for i in examples.row(row)[0].tolist() if i in tokenizer.controls.values()] for row in range(2)
    )
    assert written == other
    assert len(written) >= 3


def test_the_encoder_needs_every_control_token_of_a_frame():
    with pytest.raises(TokenizerError, match=r"--template chatml: .* has no token <\|im_start\|>, <\|im_end\|>"):
        encode(records(turns("q", "a")), controlled(), EncodingOptions(CHATML, 100))


def test_templates_with_other_frames_have_another_identity():
    assert len({template.identity() for template in TEMPLATES.values()}) == len(TEMPLATES)
    again = pickle.loads(pickle.dumps(ALPACA_ZH))
    assert again.identity() == ALPACA_ZH.identity()


# ---- a user's own


OWN = {
    "opening": "<|im_start|>{system}|",
    "opening_without_system": "<|im_start|>",
    "after_user": ">",
    "between": "/",
    "end": "<|im_end|>",
    "control_tokens": ["<|im_start|>", "<|im_end|>"],
}


def write(tmp_path, content, name="own.yaml"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["own.yaml", "own.json"])
def test_a_file(tmp_path, name):
    template = read_template(write(tmp_path, OWN, name))
    assert template == FrameTemplate(**{**OWN, "control_tokens": tuple(OWN["control_tokens"])}, name=name)
    assert texts(template, turns("q", "a", "r", "b"), turns("q", "a", system="s"), bos=False) == [
        [("<<<|im_start|>>>q>", 0), ("a<<<|im_end|>>>", 1), ("/r>", 0), ("b<<<|im_end|>>>", 1)],
        [("<<<|im_start|>>>s|q>", 0), ("a<<<|im_end|>>>", 1)],
    ]


def test_yaml_with_line_breaks(tmp_path):
    template = read_template(
        write(tmp_path, 'opening: "{system}\\n\\n问：\\n"\nafter_user: "\\n答："\nbetween: "\\n\\n问：\\n"\n')
    )
    assert (template.opening_without_system, template.after_user) == ("问：\n", "\n答：")
    assert texts(template, turns("q", "a")) == [[("<<<s>>>问：\nq\n答：", 0), ("a<<</s>>>", 1)]]


def test_json_may_have_tabs_and_astral_characters_as_escapes(tmp_path):
    content = '{\n\t"opening": "{system}\\ud83d\\ude00",\n\t"after_user": "a",\n\t"between": "b"\n}'
    assert read_template(write(tmp_path, content, "own.json")).opening == "{system}\U0001f600"


def test_a_file_may_be_called_as_a_template_of_ours(tmp_path):
    template = read_template(write(tmp_path, {**OWN, "name": "tokenizer", "control_tokens": ["<|im_end|>"]}))
    assert texts(template, turns("q", "a"), bos=False) == [[("<|im_start|>q>", 0), ("a<<<|im_end|>>>", 1)]]


def test_no_bos_beside_one_that_the_file_names(tmp_path):
    content = {**OWN, "opening_without_system": "<s>", "control_tokens": ["<s>", "<|im_end|>"]}
    assert texts(read_template(write(tmp_path, content)), turns("q", "a")) == [
        [("<<<s>>>q>", 0), ("a<<<|im_end|>>>", 1)]
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"opening": "x"}, "'opening' has 0 times {system}; expected it once"),
        ({"opening": "{system}{system}"}, "'opening' has 2 times {system}; expected it once"),
        ({"opening": 3}, "'opening' is 3; expected a text with {system} in it"),
        ({"after_user": None}, "'after_user' is None; expected a text"),
        ({"after_user": ["a"]}, "'after_user' is ['a']; expected a text"),
        ({"ending": "x"}, "unknown key 'ending'; the keys are name, opening, "),
        ({"end": "</s>"}, "'end' is '</s>', which 'control_tokens' does not list"),
        ({"end": ""}, "'end' has an empty text; expected a control token"),
        ({"control_tokens": ["<|im_end|>", ""]}, "'control_tokens' has an empty text; expected a list of texts"),
        ({"control_tokens": "<|im_end|>"}, "'control_tokens' is '<|im_end|>'; expected a list of texts"),
        ({"control_tokens": [3]}, "'control_tokens' is [3]; expected a list of texts"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path, change, problem):
    path = write(tmp_path, {**OWN, **change})
    with pytest.raises(DataError) as caught:
        read_template(path)
    assert str(caught.value).startswith(f"--template {path}: {problem}") or f"  {problem}" in str(caught.value)


@pytest.mark.parametrize("key", ["opening", "after_user", "between", "opening_without_system"])
def test_what_a_file_must_have(tmp_path, key):
    with pytest.raises(DataError, match=f"no '{key}'; expected a text"):
        read_template(write(tmp_path, {name: value for name, value in OWN.items() if name != key}))


def test_every_problem_of_a_file_is_named_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        read_template(write(tmp_path, {"opening": 1, "x": 2}))
    assert str(caught.value).count("\n") == 4  # the unknown key, two missing ones, and no text


@pytest.mark.parametrize("content", ["- a\n- b", "", "text", "a: [", "\ud800".encode("utf-8", "surrogatepass")])
def test_files_that_are_no_template(tmp_path, content):
    path = tmp_path / "own.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"own\.yaml: (cannot be read|expected keys and texts)"):
        read_template(path)


def test_broken_json(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_template(write(tmp_path, "{,}", "own.json"))


def test_end_ids():
    tokenizer = controlled(*ALL_CONTROLS)
    assert end_id(tokenizer, ALPACA_ZH) == end_id(tokenizer, ALPACA_ZH_2) == 2
    assert end_id(tokenizer, CHATML) == tokenizer.controls["<|im_end|>"]
    assert end_id(tokenizer, LLAMA3) == tokenizer.controls["<|eot_id|>"]


def test_turns_of_other_lengths_are_a_fault_of_the_caller():
    with pytest.raises(ValueError, match="argument"):
        ALPACA_ZH.render([Turn("user", "q", trained=False)])
