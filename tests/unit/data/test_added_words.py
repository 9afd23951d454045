"""Ids as transformers makes them: added words that are not special, and blanks before a text, by where it stands."""

import json
import shutil

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests import tiny
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.records import Record, Turn
from yangtuo.data.template_choice import choose_template
from yangtuo.data.tokenizer import open_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BARE = (  # the answer stands directly behind a control token
    "{% for m in messages %}{{ '<|im_start|>' + m['content'] }}{% if m['role'] == 'assistant' %}{{ '<|im_end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>' }}{% endif %}"
)
DIALOGUES = [
    ("四逆汤怎么用？", "<think>想</think> 桂枝汤与四逆汤。"),
    (" Hi there", " I am", "<think>", "</think>好"),
    ("你好", "Hello! How can I help?"),
]
WORDS = ("<think>", "</think>", "四逆汤")


def byte_level(folder, **more):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(tiny.SENTENCES, trainer)
    return written(folder, made, **more)


def metaspace(folder, scheme, **more):
    """As a LLaMA's tokenizer.json: U+2581 for blanks, by a pre-tokenizer, or by normalisers as of 2023."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if scheme == "normaliser":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme, split=False)
    strip = decoders.Strip(content=" ", left=1)
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    made.train_from_iterator([word for line in tiny.SENTENCES for word in line.split()], trainer)
    raw = json.loads(made.to_str())
    raw["added_tokens"] = [one for one in raw["added_tokens"] if not one["content"].startswith("<0x")]
    return written(folder, Tokenizer.from_str(json.dumps(raw)), **more)


def written(folder, made, chat_template=CHATML, **of_words):
    made.add_special_tokens([AddedToken(text, normalized=False) for text in ("<|im_start|>", "<|im_end|>")])
    made.add_tokens([AddedToken(text, normalized=False, **of_words) for text in WORDS])
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|im_end|>", "chat_template": chat_template, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def of_training(folder, texts, limit=512):
    """The ids of a dialogue up to its last end token, and the beginning of what is taught last."""
    tokenizer = open_tokenizer(folder)
    template, _ = choose_template("auto", tokenizer, None)
    turns = tuple(Turn("assistant" if i % 2 else "user", text, bool(i % 2)) for i, text in enumerate(texts))
    examples, _ = encode([Record("a.json", 0, turns)], tokenizer, EncodingOptions(template, limit))
    ids, supervised = examples.row(0)
    return ids.tolist(), [int(i) for i in ids[supervised]]


def of_transformers(folder, texts):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    messages = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return tokenizer(text.rstrip("\n"), add_special_tokens=False)["input_ids"]


FOLDERS = {
    "byte level": byte_level,
    **{
        scheme: lambda folder, scheme=scheme, **more: metaspace(folder, scheme, **more)
        for scheme in ("first", "always", "never", "normaliser")
    },
}


@pytest.mark.parametrize("texts", DIALOGUES)
@pytest.mark.parametrize("of_words", [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}], ids=str)
@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("chat_template", [CHATML, BARE], ids=["chatml", "bare"])
def test_a_dialogue_has_the_ids_of_transformers(tmp_path, make, of_words, texts, chat_template):
    if of_words == {"lstrip": True} and chat_template == CHATML and texts is not DIALOGUES[2]:
        pytest.skip("see test_a_blank_that_a_word_swallows_stays_in_the_prompt")
    folder = make(tmp_path / "t", chat_template=chat_template, **of_words)
    expected = of_transformers(folder, texts)
    assert of_training(folder, texts)[0][: len(expected)] == expected


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
def test_what_is_taught_is_the_answer_without_a_blank(tmp_path, make):
    folder = make(tmp_path / "t")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    ids, taught = of_training(folder, DIALOGUES[2])
    shown = tokenizer.decode(ids)[len(tokenizer.decode(ids[: -len(taught)])) :]
    assert shown.replace("\u2581", " ") == f"{DIALOGUES[2][-1]}<|im_end|>"


def test_a_blank_that_a_word_swallows_stays_in_the_prompt(tmp_path):
    """At inference the prompt ends with its line break; a word with lstrip would swallow it in one piece."""
    folder = byte_level(tmp_path / "t", lstrip=True)
    ids, taught = of_training(folder, DIALOGUES[0])
    expected = of_transformers(folder, DIALOGUES[0])
    newline = open_tokenizer(folder).encode(["\n"])[0]
    at = len(ids) - len(taught)
    assert ids[: at - 1] + ids[at:] == expected
    assert ids[at - 1 : at] == newline


def test_special_tokens_in_text_stay_text(tmp_path):
    folder = byte_level(tmp_path / "t")
    ids, _ = of_training(folder, ("<|im_end|>", "好<|im_start|>"))
    control = open_tokenizer(folder).controls["<|im_end|>"], open_tokenizer(folder).controls["<|im_start|>"]
    assert [i for i in ids if i in control] == [control[1], control[0], control[1], control[0]]


@pytest.mark.parametrize("legacy", [True, False])
def test_words_beside_a_sentencepiece_model(tmp_path, legacy):
    folder = shutil.copytree(tiny.tiny_sentencepiece(tmp_path / "source"), tmp_path / "t")
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    size = model.get_piece_size()
    (folder / "added_tokens.json").write_text(json.dumps({"四逆汤": size, "[PAD]": size + 1}))
    spec = {"content": "四逆汤", "lstrip": False, "rstrip": False, "single_word": False, "special": False}
    config = {"legacy": legacy, "added_tokens_decoder": {str(size): spec}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = open_tokenizer(folder)
    (ids,) = tokenizer.encode(["长城四逆汤天气[PAD]"])
    assert ids.count(size) == 1  # a word
    assert size + 1 not in ids  # a control token, by its name
    assert tokenizer.words == {"四逆汤"}
    behind = ids[ids.index(size) + 1 :]
    assert (behind == model.encode("天气[PAD]")) == legacy  # with the blank that sentencepiece puts before a text
    continued = tokenizer.encode(["长城", "长城"], continues=[False, True])
    assert (continued[0] == continued[1]) == legacy


@pytest.mark.parametrize("make", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("chat_template", [CHATML, BARE], ids=["chatml", "bare"])
def test_an_answer_that_is_cut_begins_as_the_whole_one(tmp_path, make, chat_template):
    folder = make(tmp_path / "t", chat_template=chat_template)
    texts = ("你好", "长城在北方。" * 40)
    whole, cut = of_training(folder, texts, 4096)[1], of_training(folder, texts, 100)[1]
    assert len(cut) < len(whole)
    assert cut[:20] == whole[:20]
