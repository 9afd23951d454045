"""Tiny model folders for GGUF files, and the files read back."""

import json

import torch
from gguf import GGUFReader

from tests import tiny
from yangtuo.exporting.gguf import convert, vocabulary
from yangtuo.exporting.gguf import model as gguf_model
from yangtuo.merging.plan import start
from yangtuo.model.stored_weights import open_stored

ROWS = tiny.SENTENCEPIECE_VOCABULARY


def llama_folder(path):
    """LLaMA with sentencepiece, and two rows without a token."""
    return tiny.tiny_sentencepiece(tiny.tiny_llama(path, num_rows=ROWS + 2))


def model_folder(path, config_class, model_class, tokenizer=tiny.tiny_json_tokenizer, **changes):
    values = {
        "vocab_size": ROWS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(0)
    model = model_class(config_class(**{**values, **changes}))
    for name, parameter in model.named_parameters():  # norms of 1 and biases of 0 hide mistakes
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    model.save_pretrained(path)
    return tokenizer(path)


def with_json(path, name, change):
    value = json.loads((path / name).read_text())
    change(value)
    (path / name).write_text(json.dumps(value))


def keys(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


def written(folder, out, kind="f32", chat_template=None):
    """What was returned, the keys, and the tensors by name with their types."""
    result = convert.write(folder, out, kind, chat_template)
    reader = GGUFReader(out)
    return result, keys(reader), {tensor.name: tensor for tensor in reader.tensors}


def plan(folder, kind):
    """What `convert.write` writes, for proofs of files that are broken afterwards."""
    weights = open_stored(folder)
    config, chain = weights.config, start(weights)
    fields = {
        "general.architecture": "llama",
        **gguf_model.fields(folder, config, kind, chain.num_rows),
        **vocabulary.fields(convert.open_tokenizer(folder), chain.num_rows),
    }
    return fields, gguf_model.tensors(folder, weights, chain, config, kind), weights
