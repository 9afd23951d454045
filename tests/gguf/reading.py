"""llama.cpp itself, through llama-cpp-python (extra `gguf`); whoever asks for it skips where it is not installed."""

from pathlib import Path

import numpy as np
import pytest
import torch

_F32 = 0  # of ggml_type; by default llama.cpp keeps keys and values in float16, which costs two digits


def opened(path: Path, *, num_positions: int = 512, vocab_only: bool = False):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra gguf)")
    return llama_cpp.Llama(
        str(path),
        n_ctx=num_positions,
        n_threads=2,
        logits_all=True,
        vocab_only=vocab_only,
        type_k=_F32,
        type_v=_F32,
        verbose=False,
    )


def ids_of(llama, text: str, *, bos: bool = True) -> list[int]:
    """llama.cpp's own ids of a user's text: the names of control tokens in it are text."""
    return llama.tokenize(text.encode(), add_bos=bos, special=False)


def logits_of(llama, ids: list[int]) -> torch.Tensor:
    """[positions, vocabulary]"""
    llama.reset()
    llama.eval(ids)
    return torch.from_numpy(np.array(llama.scores[: len(ids)]))
