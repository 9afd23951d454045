"""Base models with random weights, a tokenizer and rows, made on the spot: nothing is downloaded."""

import io
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_day_parts.job import PartFailure
from yangtuo.cli.demo import DATA
from yangtuo.data.templates import ALPACA_ZH

_SMALL_SPREAD = 0.02  # standard deviation of the weights, transformers' own

SHAPES: dict[str, dict[str, Any]] = {
    "8b": {
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128_256, "rope_theta": 5e5, "tie_word_embeddings": False},
    },
    "1b": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
        **{"num_key_value_heads": 8, "vocab_size": 128_256, "rope_theta": 5e5, "tie_word_embeddings": True},
    },
    "check": {
        **{"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16},
        **{"num_key_value_heads": 4, "vocab_size": 32_000, "tie_word_embeddings": False},
    },
    "tiny": {
        **{"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": 2048, "tie_word_embeddings": False},
    },
}
SHAPES["8b_8_layers"] = {**SHAPES["8b"], "num_hidden_layers": 8}
_PIECES = 1200  # of the tokenizer; fewer than the rows of any shape, as a vocabulary that is padded to a round number
_MOST_POSITIONS = 8192
_TIMES_OF_TEMPLATE = 50  # in the tokenizer's texts, so that the prompt's frame is of whole words


def config_of(name: str) -> Any:
    """A LLaMA's configuration."""
    from transformers import LlamaConfig

    return LlamaConfig(**SHAPES[name], max_position_embeddings=_MOST_POSITIONS, bos_token_id=1, eos_token_id=2)


def base_of(scratch: Path, name: str, device: str, dtype: str) -> Path:
    """The folder of a base; made if it is not there yet, each weight drawn on the device.

    Raises:
        PartFailure: the disk has no room for it.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    folder = scratch / "bases" / f"{name}_{dtype}"
    if (folder / "config.json").is_file():
        return folder
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name), dtype=getattr(torch, dtype))
    shapes = {key: value.shape for key, value in model.named_parameters()}  # a tied head stands once
    width = getattr(torch, dtype).itemsize
    needed = sum(shape.numel() for shape in shapes.values()) * width
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < 1.1 * needed:
        raise PartFailure(
            f"{folder.parent}: {free / 1e9:.0f} GB free, {needed / 1e9:.0f} are needed; --scratch names another place"
        )
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    torch.manual_seed(0)
    files: dict[str, list[str]] = {}
    for key in shapes:
        group = key.split(".")[2] if ".layers." in key else "rest"
        files.setdefault(f"model-{group}.safetensors", []).append(key)
    for file, keys in files.items():
        tensors = {key: _drawn(shapes[key], device, getattr(torch, dtype)) for key in keys}
        save_file(tensors, draft / file, metadata={"format": "pt"})
    _write_index(draft, files, needed)
    write_tokenizer(draft)
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(draft)
    draft.rename(folder)
    return folder


def _drawn(shape: Any, device: str, dtype: Any) -> Any:
    import torch

    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return torch.empty(shape, device=device, dtype=dtype).normal_(std=_SMALL_SPREAD).cpu()


def _write_index(folder: Path, files: Mapping[str, list[str]], num_bytes: int) -> None:
    weight_map = {key: file for file, keys in files.items() for key in keys}
    text = json.dumps({"metadata": {"total_size": num_bytes}, "weight_map": weight_map}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")


def demo_rows() -> list[dict[str, str]]:
    """The demo's: real Chinese questions and answers."""
    rows: list[dict[str, str]] = json.loads((DATA / "demo_zh.json").read_text(encoding="utf-8"))
    return rows


def write_tokenizer(folder: Path) -> None:
    """A sentencepiece BPE of the demo's rows, with bytes for what they lack."""
    import sentencepiece

    model = io.BytesIO()
    texts = [ALPACA_ZH.prompt(text) for text in ("",) * _TIMES_OF_TEMPLATE]
    texts += [text for row in demo_rows() for text in row.values() if text]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=_PIECES,
        byte_fallback=True,
        character_coverage=0.9995,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def short_rows(scratch: Path) -> Path:
    """A folder with the demo's rows alone."""
    return _written(scratch / "rows" / "short", demo_rows())


def full_rows(scratch: Path, base: Path, num_rows: int, num_tokens: int) -> Path:
    """A folder of rows that are as long as a row may be, or a little shorter: the demo's answers, shuffled."""
    import sentencepiece

    count = sentencepiece.SentencePieceProcessor(model_file=str(base / "tokenizer.model")).encode
    answers = [row["output"] for row in demo_rows()]
    template = 160  # tokens, at most: the prompt's frame and the question
    rows = []
    for i in range(num_rows):
        draws, text, length = random.Random(i), "", 0
        while True:
            more = draws.choice(answers)
            length += len(count(more))
            if length > num_tokens - min(template, num_tokens // 2):
                break
            text += more
        rows.append({"instruction": f"请写第{i + 1}篇文章。", "input": "", "output": text})
    return _written(scratch / "rows" / f"full_{num_rows}_{num_tokens}", rows)


def _written(folder: Path, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder
