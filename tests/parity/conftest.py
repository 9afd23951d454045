"""Inputs of the original system, used where they lie; every test here skips where they are absent."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"
CHINESE_LLAMA_SHA256 = "e2676d4ca29ca1750f6ff203328d73b189321dc5776ceede037cbd36541d70c0"  # as published in 2023


def pytest_collection_modifyitems(items):
    if not SHARED.is_dir():
        for item in items:
            if "parity" in Path(item.fspath).parts:
                item.add_marker(pytest.mark.skip(reason=f"no {SHARED}: the original system's outputs are not here"))


@pytest.fixture(scope="session")
def alpaca_tokenizer(tmp_path_factory) -> Path:
    """The Chinese-Alpaca tokenizer folder: LLaMA's pieces, the Chinese ones not among them, and [PAD] added."""
    from sentencepiece import sentencepiece_model_pb2 as format

    base, extra = format.ModelProto(), format.ModelProto()
    base.ParseFromString((SHARED / "assets/llama_tokenizer.model").read_bytes())
    extra.ParseFromString((SHARED / "assets/chinese_sp.model").read_bytes())
    known = {piece.piece for piece in base.pieces}
    for piece in extra.pieces:
        if piece.piece not in known:
            base.pieces.append(format.ModelProto.SentencePiece(piece=piece.piece, score=0))
    merged = base.SerializeToString()
    assert hashlib.sha256(merged).hexdigest() == CHINESE_LLAMA_SHA256
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(merged)
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": len(base.pieces)}))
    return folder


@pytest.fixture(scope="session")
def nano(tmp_path_factory) -> Path:
    """The nano model and its two adapters, in the file format of 2023 only."""
    folder = tmp_path_factory.mktemp("nano")
    subprocess.run([sys.executable, SHARED / "goldens/build_nano.py", folder], check=True, capture_output=True)
    for adapter in ("nano_adapter_lora", "nano_adapter_mts"):
        assert (folder / adapter / "adapter_model.bin").is_file()
        (folder / adapter / "adapter_model.safetensors").unlink()
    (folder / "nano_llama" / "pytorch_model.bin").unlink()
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    return folder
