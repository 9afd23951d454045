"""The proof of a GGUF file lets the right file through, and nothing else."""

import numpy as np
import pytest

from yangtuo.errors import RunFailure
from yangtuo.exporting.gguf import convert, verify

from .folders import llama_folder, plan, written


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return llama_folder(tmp_path_factory.mktemp("folder"))


def test_the_proof_lets_the_file_through_as_it_was_written(folder, tmp_path):
    convert.write(folder, tmp_path / "m.gguf", "q8_0", None)
    assert verify.prove(tmp_path / "m.gguf", *plan(folder, "q8_0")) > 0


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "blk.0.attn_norm.weight", "token_embd.weight"])
def test_one_flipped_bit_of_a_value_is_found(folder, tmp_path, kind, name):
    out = tmp_path / "m.gguf"
    _, _, tensors = written(folder, out, kind)
    flipped = np.random.default_rng(0).integers(0, tensors[name].n_bytes * 8, 6)
    for bit in flipped.tolist():
        place = tensors[name].data_offset + bit // 8
        with out.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << bit % 8]))
        with pytest.raises(RunFailure, match=f"{name} has values that are not the folder's"):
            verify.prove(out, *plan(folder, kind))
        with out.open("r+b") as file:
            file.seek(place)
            file.write(bytes([byte]))


def rewritten(path, old, new):
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: rewritten(path, b"GGUF", b"GGUG"), "cannot be read"),
        (lambda path: rewritten(path, b"blk.1.ffn_up", b"blk.1.ffn_xp"), "other tensors than the model: blk.1.ffn_"),
        (lambda path: rewritten(path, b"llama.vocab_size", b"llama.vocab_sizf"), "keys that differ: llama.vocab_siz"),
        (lambda path: rewritten(path, b"<0x41>", b"<0x42>"), "tokenizer.ggml.tokens is not what was written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4000]), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes() + bytes(32)), "bytes, its tensors end at"),
    ],
)
def test_a_file_that_is_broken_elsewhere_is_refused(folder, tmp_path, change, said):
    convert.write(folder, tmp_path / "m.gguf", "f16", None)
    change(tmp_path / "m.gguf")
    with pytest.raises(RunFailure, match=f"proof failed: .*{said}"):
        verify.prove(tmp_path / "m.gguf", *plan(folder, "f16"))


def test_another_shape_or_type_is_refused(folder, tmp_path):
    convert.write(folder, tmp_path / "m.gguf", "f16", None)
    fields, _, weights = plan(folder, "f16")
    _, tensors, _ = plan(folder, "f32")
    with pytest.raises(RunFailure, match=r"token_embd.weight is F16 \[482, 32\], expected F32 \[482, 32\]|output"):
        verify.prove(tmp_path / "m.gguf", fields, tensors, weights)


def test_scores_that_differ_are_refused(folder, tmp_path):
    convert.write(folder, tmp_path / "m.gguf", "f32", None)
    fields, tensors, weights = plan(folder, "f32")
    fields["tokenizer.ggml.scores"][300] += 1e-3
    with pytest.raises(RunFailure, match=r"tokenizer.ggml.scores is not what was written"):
        verify.prove(tmp_path / "m.gguf", fields, tensors, weights)
