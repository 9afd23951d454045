"""Chat templates against transformers' own rendering of them."""

import pickle
from dataclasses import replace

import pytest

from tests import chat_templates
from tests.dialogues import controlled, records, shown, turns
from yangtuo.data.chat_template import ChatTemplate
from yangtuo.data.encoding import Encoder, EncodingOptions, encode, end_id, prompt_ids
from yangtuo.data.examples import RowOutcome
from yangtuo.data.records import Turn
from yangtuo.data.template_choice import choose_template
from yangtuo.data.templates import TemplateFault
from yangtuo.errors import DataError, TokenizerError

NAMES = {"bos_token": "<s>", "eos_token": "</s>"}
DIALOGUES = {
    "one turn": turns("问一", "答一"),
    "three turns": turns("q1", "a1", "q2", "a2", "q3", "a3"),
    "blanks at the ends": turns("  q1 \n", "\n a1  ", "\nq2", " a2\n"),
    "control texts": turns("a</s>b<|im_end|>\n<|im_start|>", "x</s>[INST]<|eot_id|>", "<start_of_turn>", "<s>"),
    "marks of ours": turns("\ue0000\ue001", "\ue0001\ue001", "\ue0000\ue001", "\ue0003\ue001"),
    "empty": turns("", "", "", ""),
    "jinja": turns("{{ messages }}{% if %}", "{{ 1 }}"),
}


@pytest.fixture(scope="module")
def transformers_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, "<unk>")), **NAMES)


def template_of(source, default_system=None, names=NAMES):
    return ChatTemplate(source, names, default_system, tuple(controlled(*chat_templates.CONTROLS).controls))


def prompts_and_whole(exchanges):
    """The text before each answer as the model reads it, and all of the text."""
    text, prompts = "", []
    for exchange in exchanges:
        text += "".join(piece.text for piece in exchange.before) + exchange.user + exchange.after
        prompts.append(text)
        text += exchange.empty_thought + "".join(piece.text for piece in exchange.lead) + exchange.answer + exchange.end
    return prompts, text


def exchanges_of(template, dialogue):
    """Of a dialogue that is one example."""
    (example,) = template.render(dialogue)
    return example.exchanges


def assert_as_transformers(source, dialogue, tokenizer):
    examples = template_of(source).render(dialogue)
    messages = [{"role": turn.role, "content": turn.text} for turn in dialogue]

    def rendered(messages, **options):
        return tokenizer.apply_chat_template(messages, chat_template=source, tokenize=False, **options)

    prompts = []
    for example in examples:
        own, whole = prompts_and_whole(example.exchanges)
        expected = rendered(messages[: len(example.turns)])
        assert expected.startswith(whole)
        assert expected[len(whole) :].strip() == ""
        prompts += own
    users = [i for i, turn in enumerate(dialogue) if turn.role == "user"]
    assert prompts == [rendered(messages[: i + 1], add_generation_prompt=True) for i in users]


@pytest.mark.parametrize("dialogue", DIALOGUES.values(), ids=DIALOGUES)
@pytest.mark.parametrize("source", chat_templates.USABLE.values(), ids=chat_templates.USABLE)
def test_the_text_is_that_of_transformers(source, dialogue, transformers_tokenizer):
    assert_as_transformers(source, dialogue, transformers_tokenizer)


@pytest.mark.parametrize("source", chat_templates.SYSTEM_TAKEN.values(), ids=chat_templates.SYSTEM_TAKEN)
@pytest.mark.parametrize("system", ["要有礼貌", "<|im_end|>\n</s>", "\ue0001\ue001"])
def test_the_text_with_a_system_prompt_is_that_of_transformers(source, system, transformers_tokenizer):
    for texts in (("q", "a"), ("q1", "a1", "q2", "a2")):
        assert_as_transformers(source, turns(*texts, system=system), transformers_tokenizer)


# Templates that treat an empty system prompt otherwise than a text.
EMPTY_IS_NONE = chat_templates.QWEN25.replace(
    "{%- if messages[0]['role'] == 'system' %}", "{%- if messages[0]['role'] == 'system' and messages[0]['content'] %}"
)
LEAVES_OUT = chat_templates.QWEN3.replace(
    "{%- if messages[0].role == 'system' %}", "{%- if messages[0].role == 'system' and messages[0].content %}"
)
MERGED = chat_templates.LLAMA2.replace("system_message != false", "system_message")
TAKES_EMPTY = {**chat_templates.SYSTEM_TAKEN, "empty is none": EMPTY_IS_NONE, "left out": LEAVES_OUT, "merged": MERGED}
OWN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


@pytest.mark.parametrize("source", TAKES_EMPTY.values(), ids=TAKES_EMPTY)
def test_an_empty_system_prompt_is_given_to_the_template_as_it_is(source, transformers_tokenizer):
    for texts in (("q", "a"), ("q1", "a1", "q2", "a2"), ("  q ", "a\n")):
        assert_as_transformers(source, turns(*texts, system=""), transformers_tokenizer)
    assert template_of(source).takes_empty_system()
    # As the default it is that of dialogues without one.
    with_default = template_of(source, default_system="")
    assert with_default.render(turns("q", "a")) == template_of(source).render(turns("q", "a", system=""))
    assert with_default.identity() != template_of(source).identity()


def test_what_a_template_writes_all_the_same_is_known():
    keeps = {name: template_of(source).keeps_own_system() for name, source in TAKES_EMPTY.items()}
    assert keeps == {**dict.fromkeys(TAKES_EMPTY, False), "empty is none": True}
    assert OWN in prompts_and_whole(exchanges_of(template_of(EMPTY_IS_NONE), turns("q", "a", system="")))[1]
    assert OWN not in prompts_and_whole(exchanges_of(template_of(chat_templates.QWEN25), turns("q", "a", system="")))[1]
    assert OWN in prompts_and_whole(exchanges_of(template_of(chat_templates.QWEN25), turns("q", "a")))[1]


@pytest.mark.parametrize("source", [chat_templates.GEMMA, chat_templates.MISTRAL])
def test_a_template_that_takes_no_system_prompt_has_none(source):
    template, tokenizer = template_of(source, default_system=""), controlled(*chat_templates.CONTROLS)
    assert not template.takes_empty_system()
    assert not template.keeps_own_system()
    assert template.render(turns("q", "a")) == template_of(source).render(turns("q", "a"))
    with pytest.raises(TemplateFault):
        template.render(turns("q", "a", system=""))
    told, plain = records(turns("q", "a", system="")), records(turns("q", "a"))
    encoded = [encode(rows, tokenizer, EncodingOptions(template, 512))[0] for rows in (told, plain)]
    assert encoded[0].row(0)[0].tolist() == encoded[1].row(0)[0].tolist()
    assert [rows.num_with(RowOutcome.NO_SYSTEM) for rows in encoded] == [1, 0]
    with pytest.raises(DataError):
        encode(records(turns("q", "a", system="x")), tokenizer, EncodingOptions(template, 512))


def test_an_empty_system_prompt_survives_another_process_and_a_cut():
    template, tokenizer = template_of(LEAVES_OUT, default_system=""), controlled(*chat_templates.CONTROLS)
    rows = records(turns("q1", "a1", "q2", "a2", system=""))
    assert pickle.loads(pickle.dumps(template)).render(rows[0].turns) == template.render(rows[0].turns)
    whole, _ = encode(rows, tokenizer, EncodingOptions(template, 512))
    cut, _ = encode(rows, tokenizer, EncodingOptions(template, int(whole.lengths()[-1]) - 1))
    plain, _ = encode(records(turns("q2", "a2", system="")), tokenizer, EncodingOptions(template, 512))
    assert cut.row(len(cut) - 1)[0].tolist() == plain.row(0)[0].tolist()
    assert cut.num_with(RowOutcome.TURNS_LOST) == 1


def test_the_comparison_sees_a_difference(transformers_tokenizer, monkeypatch):
    monkeypatch.setitem(NAMES, "bos_token", "<S>")
    with pytest.raises(AssertionError):
        assert_as_transformers(chat_templates.LLAMA2, turns("q", "a"), transformers_tokenizer)


# ---- ids


def encoded(source, *dialogues, eos="</s>", bos=True, limit=10_000, system=None):
    tokenizer = controlled(*chat_templates.CONTROLS, eos=eos, bos=bos, chat_template=source)
    template, _ = choose_template("tokenizer", tokenizer, system)
    examples, dropped = encode(records(*dialogues), tokenizer, EncodingOptions(template, limit))
    return [shown(examples, i, tokenizer) for i in range(len(examples))], dropped


def test_qwen25_to_the_token():
    rows, _ = encoded(
        chat_templates.QWEN25, turns("q<|im_end|>", "a", "r", "b<|im_start|>"), eos="<|im_end|>", bos=False
    )
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert rows == [
        [
            (
                f"<<<|im_start|>>>system\n{system}<<<|im_end|>>>\n<<<|im_start|>>>user\nq<|im_end|><<<|im_end|>>>\n"
                "<<<|im_start|>>>assistant\n",
                0,
            ),
            ("a<<<|im_end|>>>", 1),
            ("\n<<<|im_start|>>>user\nr<<<|im_end|>>>\n<<<|im_start|>>>assistant\n", 0),
            ("b<|im_start|><<<|im_end|>>>", 1),
        ]
    ]


def test_qwen3_asks_for_each_answer_behind_an_empty_block_which_stands_in_no_history():
    rows, _ = encoded(chat_templates.QWEN3, turns("q", "a", "r", "b"), eos="<|im_end|>", bos=False)
    asked, block = "<<<|im_end|>>>\n<<<|im_start|>>>assistant\n", "<<<think>>>\n\n<<</think>>>\n\n"
    assert rows == [
        [(f"<<<|im_start|>>>user\nq{asked}{block}", 0), ("a<<<|im_end|>>>", 1)],
        [
            (f"<<<|im_start|>>>user\nq{asked}a<<<|im_end|>>>\n<<<|im_start|>>>user\nr{asked}{block}", 0),
            ("b<<<|im_end|>>>", 1),
        ],
    ]


def test_qwen3_with_thoughts_in_the_answers_drops_them_in_the_history_alone():
    thought = "<<<think>>>\nwhy\n<<</think>>>\n\n"
    said = "<think>\nwhy\n</think>\n\n"
    rows, _ = encoded(chat_templates.QWEN3, turns("q", f"{said}a", "r", f"{said}b"), eos="<|im_end|>", bos=False)
    asked = "<<<|im_end|>>>\n<<<|im_start|>>>assistant\n"
    assert rows == [
        [(f"<<<|im_start|>>>user\nq{asked}", 0), (f"{thought}a<<<|im_end|>>>", 1)],
        [
            (f"<<<|im_start|>>>user\nq{asked}a<<<|im_end|>>>\n<<<|im_start|>>>user\nr{asked}", 0),
            (f"{thought}b<<<|im_end|>>>", 1),
        ],
    ]


def test_llama2_with_one_bos_a_turn_and_the_blanks_of_its_frame():
    rows, _ = encoded(chat_templates.LLAMA2, turns(" q ", "a", "r</s>", "b", system="s"))
    assert rows == [
        [
            ("<<<s>>>[INST] <<SYS>>\ns\n<</SYS>>\n\n q [/INST]", 0),
            (" a <<</s>>>", 1),
            ("<<<s>>>[INST] r</s> [/INST]", 0),
            (" b <<</s>>>", 1),
        ]
    ]


def test_llama3_to_the_id():
    tokenizer = controlled(*chat_templates.CONTROLS, chat_template=chat_templates.LLAMA3)
    template, _ = choose_template("tokenizer", tokenizer, None)
    examples, _ = encode(records(turns("q", "a")), tokenizer, EncodingOptions(template, 100))
    of = {character: ord(character) + 3 for character in "qa\n"}
    control = tokenizer.controls
    begin, end, turn = (control[name] for name in ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    user, assistant = ([ord(character) + 3 for character in role] for role in ("user", "assistant"))
    assert examples.input_ids.tolist() == [
        *(1, begin, *user, end, of["\n"], of["\n"], of["q"], turn),
        *(begin, *assistant, end, of["\n"], of["\n"], of["a"], turn),
    ]
    assert examples.supervised.tolist() == [False] * (len(examples.input_ids) - 2) + [True] * 2
    assert end_id(tokenizer, template) == turn != tokenizer.eos_id


@pytest.mark.parametrize("bos", [True, False])
def test_a_template_without_bos_gets_none_as_servers_add_none(bos):
    rows, _ = encoded(chat_templates.GENERATION, turns("q", "a"), bos=bos)
    assert rows[0][0][0].startswith("<<<|im_start|>>>user\n")


def test_a_bos_of_the_template_stands_though_the_tokenizer_itself_puts_none():
    tokenizer = controlled(*chat_templates.CONTROLS, bos=False, chat_template=chat_templates.LLAMA3)
    tokenizer = replace(tokenizer, names=NAMES)
    template, _ = choose_template("tokenizer", tokenizer, None)
    examples, _ = encode(records(turns("q", "a")), tokenizer, EncodingOptions(template, 100))
    assert examples.input_ids.tolist().count(1) == 1
    assert examples.input_ids[0] == 1


@pytest.mark.parametrize("source", chat_templates.USABLE.values(), ids=chat_templates.USABLE)
def test_the_prompt_of_chat_is_the_one_that_is_trained(source):
    tokenizer = controlled(*chat_templates.CONTROLS, chat_template=source)
    template, _ = choose_template("tokenizer", tokenizer, None)
    dialogue = turns("q", "a", "r", "b")
    examples, _ = encode(records(dialogue), tokenizer, EncodingOptions(template, 10_000))
    ids, supervised = examples.row(len(examples) - 1)
    block = [tokenizer.id_of("<think>"), 13, 13, tokenizer.id_of("</think>"), 13, 13]  # without a loss, and not asked
    begin_of_last = int((~supervised).nonzero()[0][-1]) + 1
    prompt = ids[:begin_of_last].tolist()
    if source == chat_templates.QWEN3:
        assert prompt[-6:] == block
        prompt = prompt[:-6]
    assert prompt_ids(tokenizer, template, dialogue[:-1]) == prompt


def test_a_system_prompt_for_rows_without_one():
    rows, _ = encoded(chat_templates.GENERATION, turns("q", "a"), turns("q", "a", system="own"), system="given")
    assert [row[0][0].split("\n")[1] for row in rows] == ["given<<<|im_end|>>>", "own<<<|im_end|>>>"]


def test_a_long_dialogue_loses_its_oldest_turns_and_is_as_if_it_had_never_had_them():
    tokenizer = controlled(*chat_templates.CONTROLS)
    short, long = (turns(*texts, "r", "b", "t", "c", system="s") for texts in ((), ("q" * 50, "a")))
    for source in chat_templates.SYSTEM_TAKEN.values():
        template = template_of(source)
        expected, _ = encode(records(short), tokenizer, EncodingOptions(template, 10_000))
        for more in (0, 1, 5):
            kept, _ = encode(records(long), tokenizer, EncodingOptions(template, int(expected.lengths()[-1]) + more))
            assert shown(kept, len(kept) - 1, tokenizer) == shown(expected, len(expected) - 1, tokenizer)
            assert kept.num_with(RowOutcome.TURNS_LOST) >= 1
        fewer, _ = encode(records(long), tokenizer, EncodingOptions(template, int(expected.lengths()[-1]) - 1))
        assert len(shown(fewer, len(fewer) - 1, tokenizer)) == 2  # of one turn


def test_an_answer_that_is_cut_open_has_nothing_of_the_frame_behind_it():
    rows, _ = encoded(chat_templates.LLAMA2, turns("", "x" * 30), limit=30)
    assert rows == [[("<<<s>>>[INST]  [/INST]", 0), (" " + "x" * 13, 1)]]


# ---- what is refused


@pytest.mark.parametrize(
    ("source", "dialogue", "reason"),
    [
        (chat_templates.GEMMA, turns("q", "a", system="s"), "cannot render this row: System role not supported"),
        (
            chat_templates.MISTRAL,
            turns("q", "a", system="s"),
            "cannot render this row: Conversation roles must alternate",
        ),
        (chat_templates.DROPS_TURNS, turns("q", "a", "r", "b"), "leaves out or changes a turn of this row"),
        (chat_templates.REWRITES, turns("a cat", "a"), "leaves out or changes a turn of this row"),
        (chat_templates.REWRITES, turns("q", "a cat"), "changes the text of this row's turns"),
        (chat_templates.SYSTEM_LAST, turns("q", "a", system="s"), "differently from the prompts of its single answers"),
    ],
)
def test_rows_that_a_template_cannot_render_exactly(source, dialogue, reason):
    good = turns("q", "a")
    rows, dropped = encoded(source, good, dialogue, good)
    assert [(one.row, reason in one.reason) for one in dropped] == [(1, True)], dropped
    assert len(rows) == 2


def test_no_row_left_says_why_without_advice_on_the_length():
    with pytest.raises(DataError) as caught:
        encoded(chat_templates.GEMMA, turns("q", "a", system="s"))
    assert str(caught.value) == (
        "none of the 1 rows can be trained on (the tokenizer's chat template cannot render this row: "
        "System role not supported: 1)"
    )


def test_the_system_prompt_in_the_last_question_is_fine_where_that_is_the_first(transformers_tokenizer):
    assert_as_transformers(chat_templates.MISTRAL_V3, turns("q", "a", system="s"), transformers_tokenizer)
    assert_as_transformers(chat_templates.MISTRAL_V3, turns("q", "a", "r", "b"), transformers_tokenizer)


def test_a_system_prompt_in_the_last_question_makes_an_example_of_each_answer(transformers_tokenizer):
    dialogue = turns("q", "a", "r", "b", system="s")
    assert_as_transformers(chat_templates.MISTRAL_V3, dialogue, transformers_tokenizer)
    rows, _ = encoded(chat_templates.MISTRAL_V3, dialogue)
    assert rows == [
        [("<<<s>>>[INST] s\n\nq[/INST]", 0), (" a<<</s>>>", 1)],
        [("<<<s>>>[INST] q[/INST] a<<</s>>>[INST] s\n\nr[/INST]", 0), (" b<<</s>>>", 1)],
    ]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('never') }}", "cannot render this row: never"),
        ("{{ messages[5].content.x }}", "cannot render this row: "),
        ("nothing", "leaves out an answer"),
        ("{% if %}", "the tokenizer's chat template: "),
    ],
)
def test_templates_that_can_render_nothing(source, reason):
    with pytest.raises(TokenizerError, match=reason):
        template_of(source)


def test_a_template_for_a_tokenizer_without_control_tokens():
    with pytest.raises(TokenizerError, match="no control token that could end an answer"):
        ChatTemplate(chat_templates.QWEN25, NAMES, None, ())


def test_a_template_cannot_reach_out_of_its_sandbox():
    with pytest.raises(TokenizerError, match="unsafe"):
        template_of("{{ messages.__class__.__mro__ }}")


def test_json_is_written_as_transformers_writes_it(transformers_tokenizer):
    source = chat_templates.GENERATION + "{{ {'键': ['<', 1]} | tojson(indent=None) if false }}"
    head = "{{ {'键': '<b>'} | tojson(ensure_ascii=False) }}{{ {'b': 1, 'a': '键'} | tojson(true, 2, sort_keys=true) }}"
    assert_as_transformers(head + source, turns("q", "a"), transformers_tokenizer)


def test_the_day_is_not_in_the_text():
    source = "{{ strftime_now('%Y') if strftime_now is defined else 'a date of its own' }}" + chat_templates.GENERATION
    assert exchanges_of(template_of(source), turns("q", "a"))[0].before[0].text.startswith("a date of its own")


# ---- identity


def test_a_template_sent_to_another_process_renders_the_same():
    template = template_of(chat_templates.QWEN3, "s")
    again = pickle.loads(pickle.dumps(template))
    dialogue = turns("q", "a", "r", "b")
    assert again.render(dialogue) == template.render(dialogue)
    assert (again.identity(), again.end) == (template.identity(), template.end) != ("", "")


def test_the_identity_tells_apart_what_renders_otherwise():
    made = [
        template_of(chat_templates.QWEN25),
        template_of(chat_templates.QWEN3),
        template_of(chat_templates.QWEN25, "s"),
        template_of(chat_templates.QWEN25, names={"bos_token": "<S>"}),
    ]
    assert len({template.identity() for template in made}) == 4
    assert template_of(chat_templates.QWEN25).identity() == made[0].identity()


def test_weights_and_untrained_answers_reach_the_exchanges():
    dialogue = turns("q", "a", "r", "b", trained=[False, True], weights=[1.0, 0.5])
    exchanges = exchanges_of(template_of(chat_templates.QWEN25), dialogue)
    assert [(exchange.trained, exchange.weight) for exchange in exchanges] == [(False, 1.0), (True, 0.5)]


def test_frames_are_found_once_for_each_shape_of_dialogue(monkeypatch):
    template = template_of(chat_templates.QWEN25)
    template.render(turns("q", "a", "r", "b"))
    monkeypatch.setattr(template, "_find_frames", None)
    assert exchanges_of(template, turns("x", "y", "z", "w"))[1].answer == "w"
    with pytest.raises(TypeError):
        template.render(turns("x", "y", system="s"))


def test_the_encoder_needs_the_templates_tokens():
    template = template_of(chat_templates.QWEN25)
    with pytest.raises(TokenizerError, match="has no token"):
        Encoder(controlled(), EncodingOptions(template, 100))


def test_a_row_without_words_of_the_user_keeps_its_roles():
    assert template_of(chat_templates.QWEN25).render([Turn("user", "", False), Turn("assistant", "a", True)])
