"""Rows and models for the engine's tests: a few tokens, two layers, random weights."""

import numpy as np
import torch
import transformers

from yangtuo.data.examples import Examples

VOCABULARY = 64
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def examples_of(*rows):
    """Examples from (prompt ids, supervised ids) pairs."""
    ids = [np.array([*prompt, *answer], dtype=np.int32) for prompt, answer in rows]
    masks = [np.array([False] * len(prompt) + [True] * len(answer)) for prompt, answer in rows]
    return Examples.of_rows(ids, masks)


def model_of(name, **changes):
    """A random causal language model of that configuration class, in evaluation mode; weights large enough to tell."""
    config = getattr(transformers, f"{name}Config")(**{**_SIZES, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model.eval()
