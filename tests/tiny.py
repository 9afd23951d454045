"""Small inputs, built when a test asks for them: tokenizers, a model, rows. Nothing binary lies in the repository."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

from yangtuo.data.backends import Blank
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import Tokenizer

SENTENCES = (
    ALPACA_ZH.prompt("请介绍一下长城。"),
    "长城是中国古代的军事防御工程，东起山海关，西到嘉峪关，全长两万多千米。",
    "请把下面的句子翻译成英文：今天天气很好，我们一起去公园散步吧！",
    "The Great Wall is a long wall in the north of China. It is very old, and many people visit it every year.",
    "春天来了，花开了，小草绿了。你最喜欢哪个季节？为什么？",
    "机器学习是人工智能的一个分支；它让计算机从数据中学习，而不是按照固定的规则工作……",
    "To be or not to be, that is the question: 生存还是毁灭，这是一个值得考虑的问题。",
)
CONTROL_TEXTS = ("<s>", "</s>", "<unk>", "<0x41>", "<|im_start|>", "<|im_end|>", "<think>", "[PAD]")
SENTENCEPIECE_VOCABULARY = 480
_TOPICS = ("长城", "春天", "机器学习", "大熊猫", "月亮", "茶叶", "高铁")


def rows(n: int) -> list[dict[str, str]]:
    """`n` Alpaca rows, all different, the same at every call; every third has an input, answers grow and shrink."""
    return [
        {
            "instruction": f"请介绍{_TOPICS[i % len(_TOPICS)]}的第{i + 1}个特点。",
            "input": f"不超过{10 * (i % 4 + 1)}个字" if i % 3 == 0 else "",
            "output": f"{_TOPICS[i % len(_TOPICS)]}的特点有很多。" * (i % 4 + 1) + f"这是第{i + 1}个。",
        }
        for i in range(n)
    ]


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    """An Alpaca JSON file; returns its path."""
    path.write_text(json.dumps(list(rows), ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def tiny_sentencepiece(folder: Path) -> Path:
    """A tokenizer folder as LLaMA's of 2023: `tokenizer.model` alone, BPE with byte fallback, <s> 1 and </s> 2."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=SENTENCEPIECE_VOCABULARY,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def tiny_json_tokenizer(folder: Path) -> Path:
    """A tokenizer folder as Qwen's: byte-level `tokenizer.json`, no BOS, EOS <|im_end|>, and <think> added as text."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<think>"])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return folder


class _Characters:
    """One id a character, its code point + 3, so that a test can write the expected ids by hand."""

    blank = Blank.NEVER

    def encode(
        self, texts: Sequence[str], num_threads: int, continues: Sequence[bool] | None = None
    ) -> list[list[int]]:
        return [[ord(character) + 3 for character in text] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i - 3) for i in ids)

    def id_of(self, token: str) -> int | None:
        return {"<s>": 1, "</s>": 2}.get(token)

    def num_tokens(self) -> int:
        return 0x110000 + 3

    def bytes_of(self, i: int) -> bytes:
        return chr(i - 3).encode()

    def is_byte(self, i: int) -> bool:
        return False


def characters(*, bos: bool = True) -> Tokenizer:
    """A tokenizer without files: character c has id ord(c) + 3, BOS is 1 (where wanted), EOS is 2."""
    backend = _Characters()
    return Tokenizer(Path(), backend, 1 if bos else None, 2, backend.num_tokens())


def tiny_llama(folder: Path, *, num_rows: int = SENTENCEPIECE_VOCABULARY, tie: bool = False, seed: int = 0) -> Path:
    """A LLaMA of 2 layers with random weights, `num_rows` rows in its embedding; head and embedding one with `tie`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=num_rows,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tie,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def provenance_of(base: Path, tokenizer: Tokenizer, **changes: object) -> dict:
    """What an adapter trained on this base says of itself."""
    from yangtuo.data.template_json import to_values
    from yangtuo.model import fingerprint
    from yangtuo.model.architecture import read_config

    return {
        "base": fingerprint.of_base(str(base), base, read_config(base)),
        "stack": [],
        "tokenizer": {"sha256": tokenizer.sha256(), "num_tokens": tokenizer.num_tokens},
        "template": to_values(ALPACA_ZH),
        **changes,
    }


def tiny_adapter(
    folder: Path, base: Path, *, tokenizer: Path | None = None, modules_to_save: str | None = None, **provenance: object
) -> Path:
    """A LoRA on a base with random weights, as training saves it; its tokenizer is the base's unless named."""
    import torch
    from transformers import AutoModelForCausalLM

    from yangtuo.config.schema import LoraArguments
    from yangtuo.data.template_json import from_values
    from yangtuo.data.tokenizer import open_tokenizer
    from yangtuo.model.adapter_state import save, trained_parameters
    from yangtuo.model.adapters import attach_new
    from yangtuo.model.base import fit_vocabulary
    from yangtuo.model.prompt_files import prompt_files_of

    opened = open_tokenizer(tokenizer or base)
    model = AutoModelForCausalLM.from_pretrained(base)
    fit_vocabulary(model, opened.num_tokens, are_trained=True)
    adapter = attach_new(model, LoraArguments(lora_rank=4, modules_to_save=modules_to_save))
    weights = trained_parameters(adapter)
    with torch.no_grad():
        draws = torch.Generator().manual_seed(1)
        for _, weight in sorted(weights.items()):
            weight.copy_(torch.randn(weight.shape, generator=draws) * 0.2)
    known = provenance_of(base, opened, **provenance)
    save(adapter, folder, prompt_files_of(from_values(known["template"]), opened, None), weights, known)
    return folder
