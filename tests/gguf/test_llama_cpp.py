"""What llama.cpp computes from our GGUF files is what transformers computes from the folder, and its ids are ours.

Needs llama-cpp-python (`pip install -e '.[gguf]'`, which compiles for minutes), and skips without it. The part with a
real model downloads the demo's; its marker is `demo`.
"""

import json
import logging

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tests import tiny
from tests.command import run
from yangtuo.cli import demo
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.exporting.gguf import convert, vocabulary
from yangtuo.exporting.gguf import model as gguf_model
from yangtuo.inference.generate import Sampling
from yangtuo.vocab.texts import texts_of

from .reading import ids_of, logits_of, opened

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra gguf)")

logger = logging.getLogger(__name__)  # pytest's --log-cli-level=INFO shows what was measured

QUESTIONS = (
    "请介绍一下长城。",
    "你好，请问你是哪位？",
    "2加3等于几？",
    "What is the capital of France?",
    "写一句关于春天的话。",
)
TEXTS = (
    *QUESTIONS,
    "The Great Wall is a long wall in the north of China. It's 21,196 km long, isn't it?",
    "def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\n\n\n\tx = 12345678",
    "机器学习是人工智能的一个分支；它让计算机从数据中学习。 2024年10月3日，温度为-3.5℃🚀…",
    "<|im_end|></s>[PAD] are names, not tokens",
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def ours(tokenizer, text):
    """The ids of a user's text as training has them."""
    return [*([] if tokenizer.bos_id is None else [tokenizer.bos_id]), *tokenizer.encode([text])[0]]


def theirs(folder, ids):
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return [model(torch.tensor([one])).logits[0] for one in ids]


def largest_difference(llama, folder, ids):
    wanted = theirs(folder, ids)
    return max(float((logits_of(llama, one) - logits).abs().max()) for one, logits in zip(ids, wanted, strict=True))


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """SmolLM2-135M with an adapter of 4 steps in it."""
    folder = tmp_path_factory.mktemp("merged")
    base = demo.fetch_model(demo.cache_folder())
    training = [*("--model_name_or_path", base, "--dataset_dir", demo.DATA, "--output_dir", folder / "run")]
    training += [*("--max_steps", 4, "--template", "alpaca_zh", "--per_device_train_batch_size", 4, "--do_train")]
    training += [*("--max_seq_length", 256, "--learning_rate", 1e-3, "--lora_dropout", 0, "--save_strategy", "no")]
    merging = ["--model_name_or_path", base, "--peft_path", folder / "run" / "sft_lora_model"]
    for words in (["train", *training], ["merge", *merging, "--output_dir", folder / "merged"]):
        done = run(["yangtuo", *words], timeout=900)
        assert done.code == 0, done.said
    return folder / "merged"


@pytest.fixture(scope="module")
def llama(merged, tmp_path_factory):
    out = tmp_path_factory.mktemp("gguf") / "f32.gguf"
    convert.write(merged, out, "f32", None)
    return opened(out)


@pytest.mark.demo
def test_logits_of_a_real_model(llama, merged):
    tokenizer = open_tokenizer(merged)
    difference = largest_difference(llama, merged, [ours(tokenizer, text) for text in TEXTS])
    logger.info("largest difference of a logit: %.2g", difference)
    assert difference < 1e-3


@pytest.mark.demo
def test_ids_of_a_real_model(llama, merged):
    tokenizer = open_tokenizer(merged)
    texts = [*TEXTS, *texts_of([demo.DATA / "demo_zh.json"])]
    assert [ids_of(llama, text) for text in texts] == [ours(tokenizer, text) for text in texts]


@pytest.mark.demo
def test_greedy_answers_of_a_real_model(llama, merged):
    model = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    wanted = [text.strip() for text in demo.answers(model, merged, QUESTIONS, Sampling(max_new_tokens=32))]
    found = []
    for question in QUESTIONS:
        prompt = ALPACA_ZH.prompt(question)
        done = llama.create_completion(prompt, max_tokens=32, temperature=0, repeat_penalty=1.0)
        found.append(done["choices"][0]["text"].strip())
    assert found == wanted
    assert all(found)


@pytest.mark.demo
@pytest.mark.parametrize(("kind", "same"), [("f16", 0.98), ("q8_0", 0.85)])
def test_smaller_kinds_mostly_choose_the_same_tokens(merged, tmp_path, kind, same):
    convert.write(merged, tmp_path / "m.gguf", kind, None)
    smaller, tokenizer = opened(tmp_path / "m.gguf"), open_tokenizer(merged)
    ids = [ours(tokenizer, text) for text in TEXTS]
    pairs = [(logits_of(smaller, one), logits) for one, logits in zip(ids, theirs(merged, ids), strict=True)]
    agree = torch.cat([found.argmax(1) == wanted.argmax(1) for found, wanted in pairs]).float().mean()
    difference = max(float((found - wanted).abs().max()) for found, wanted in pairs)
    logger.info("%s: same first choice at %.1f %%, a logit differs by %.2g at most", kind, 100 * agree, difference)
    assert agree >= same


def tiny_model(folder, config_class, model_class, tokenizer, **changes):
    values = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,  # else the logits are small, and so is every mistake
    }
    torch.manual_seed(0)
    model = model_class(config_class(**{**values, **changes}))
    for name, parameter in model.named_parameters():  # norms of 1 and biases of 0 hide mistakes
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.2)
    model.save_pretrained(folder)
    return tokenizer(folder)


LLAMA, SENTENCEPIECE, JSON = (LlamaConfig, LlamaForCausalLM), tiny.tiny_sentencepiece, tiny.tiny_json_tokenizer


@pytest.mark.parametrize(
    ("classes", "tokenizer", "changes"),
    [
        (LLAMA, SENTENCEPIECE, {}),
        (LLAMA, JSON, {"tie_word_embeddings": True}),
        (LLAMA, SENTENCEPIECE, {"attention_bias": True, "mlp_bias": True}),
        (LLAMA, SENTENCEPIECE, {"head_dim": 32}),
        (LLAMA, SENTENCEPIECE, {"num_key_value_heads": 4, "rms_norm_eps": 0.1}),
        (LLAMA, JSON, {"rope_parameters": LLAMA3}),
        (LLAMA, JSON, {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
        ((MistralConfig, MistralForCausalLM), SENTENCEPIECE, {"sliding_window": None}),
        ((Qwen2Config, Qwen2ForCausalLM), JSON, {}),
        ((Qwen3Config, Qwen3ForCausalLM), JSON, {"head_dim": 32, "tie_word_embeddings": True}),
    ],
    ids=lambda value: value[0].__name__ if isinstance(value, tuple) else None,
)
def test_logits_and_ids_of_tiny_models(tmp_path, classes, tokenizer, changes):
    folder = tiny_model(tmp_path / "m", *classes, tokenizer, **changes)
    convert.write(folder, tmp_path / "m.gguf", "f32", None)
    llama, tokenizer = opened(tmp_path / "m.gguf"), open_tokenizer(folder)
    texts = [*tiny.SENTENCES, *TEXTS, *(text for text in tiny.CONTROL_TEXTS if text != "<think>")]
    ids = [ours(tokenizer, text) for text in texts]
    assert [ids_of(llama, text) for text in texts] == ids
    assert largest_difference(llama, folder, [one[:256] for one in ids]) < 1e-4


def test_a_model_whose_heads_are_not_in_pairs_is_found(tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "m", *LLAMA, SENTENCEPIECE)
    monkeypatch.setattr(gguf_model, "paired", lambda value, num_heads: value)
    convert.write(folder, tmp_path / "m.gguf", "f32", None)
    ids = [ours(open_tokenizer(folder), text) for text in TEXTS]
    assert largest_difference(opened(tmp_path / "m.gguf"), folder, ids) > 0.1


def test_a_token_that_was_added_as_text_is_read_out_of_a_text(tmp_path):
    """As llama.cpp does with all such tokens; in training, what a user writes never becomes one."""
    folder = tiny_model(tmp_path / "m", *LLAMA, JSON)
    convert.write(folder, tmp_path / "m.gguf", "f32", None)
    tokenizer = open_tokenizer(folder)
    assert ids_of(opened(tmp_path / "m.gguf"), "a<think>b") == [
        *tokenizer.encode(["a"])[0],
        tokenizer.id_of("<think>"),
        *tokenizer.encode(["b"])[0],
    ]


def regexp(digits):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                tokenizers.Regex(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
                    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                behavior="isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)
PRE_TOKENIZERS = {
    "gpt-2": (WORDS, False),
    "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS]), False),
    "llama-bpe": (regexp(r"\p{N}{1,3}"), True),
    "qwen2": (regexp(r"\p{N}"), False),
}


def cut_by(folder, name):
    """A byte-level folder whose merges cross every border, so that only the pre-tokenizer keeps texts apart."""
    pre_tokenizer, ignores_merges = PRE_TOKENIZERS[name]
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=ignores_merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([text[:20] for text in (*TEXTS, *tiny.SENTENCES)] * 2 + list(BORDERS) * 9, trainer)
    made.pre_tokenizer = pre_tokenizer
    made.add_special_tokens(["<|im_end|>"])
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return folder


BORDERS = (
    "I'll don't IT'S 12345 67 8 3.14",
    "在2024年10月3日  两个空格   三个\n\n换行\t\t制表 \n  x",
    "a,b; c... (d) “引号”，标点。。！！ 12，345",
)


@pytest.fixture(scope="module", params=PRE_TOKENIZERS)
def cut(request, tmp_path_factory):
    """The name, our tokenizer, and llama.cpp's file."""
    folder = cut_by(tmp_path_factory.mktemp(request.param) / "m", request.param)
    tiny.tiny_llama(folder, num_rows=1600)
    convert.write(folder, folder / "m.gguf", "f32", None)
    return request.param, open_tokenizer(folder), folder / "m.gguf"


def test_each_pre_tokenizer_cuts_in_llama_cpp_as_in_tokenizers(cut):
    name, tokenizer, path = cut
    llama = opened(path, vocab_only=True)
    for text in (*BORDERS, *TEXTS, *tiny.SENTENCES):
        assert ids_of(llama, text, bos=False) == tokenizer.encode([text])[0], (name, text)


def test_another_pre_tokenizers_name_would_be_found(cut, tmp_path, monkeypatch):
    name, tokenizer, _ = cut
    other = {"gpt-2": "smollm", "smollm": "gpt-2", "llama-bpe": "qwen2", "qwen2": "llama-bpe"}[name]
    monkeypatch.setattr(vocabulary, "_pre_tokenizer", lambda whole: other)
    convert.write(tokenizer.folder, tmp_path / "m.gguf", "f32", None)
    llama = opened(tmp_path / "m.gguf", vocab_only=True)
    assert any(ids_of(llama, text, bos=False) != tokenizer.encode([text])[0] for text in BORDERS)
