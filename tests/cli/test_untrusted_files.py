"""Files with code in them: nothing of it runs, in any verb that reads them. SECURITY.md names what is held here."""

import pickle

import pytest
import torch

from tests import tiny
from yangtuo.cli import main


class Bomb:
    """What runs `mkdir` when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trace(tmp_path):
    return tmp_path / "code has run"


@pytest.fixture
def base(inputs, tmp_path, trace):
    """A base whose weights are a pickle with code in it."""
    folder = tiny.tiny_llama(tmp_path / "base")
    tiny.tiny_sentencepiece(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"model.embed_tokens.weight": Bomb(trace)}, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("verb", ["train", "chat", "export"])
def test_no_code_of_weights_runs(verb, base, trace, inputs, tmp_path, capfd):
    words = {
        "train": inputs.options(tmp_path / "out", model_name_or_path=base),
        "chat": [str(base), "--ask", "你好"],
        "export": ["--model_name_or_path", str(base), "--output_dir", str(tmp_path / "out")],
    }
    assert main([verb, *words[verb]]) == 2
    assert str(base) in capfd.readouterr().err
    assert not trace.exists()
    torch.load(base / "pytorch_model.bin", weights_only=False)  # the control: it would have run
    assert trace.exists()


def test_options_make_no_objects(trace, inputs, tmp_path, capfd):
    file = tmp_path / "run.yaml"
    file.write_text(f'output_dir: !!python/object/apply:os.mkdir ["{trace}"]\n', encoding="utf-8")
    assert main(["check", str(file), *inputs.options(tmp_path / "out")]) == 2
    assert str(file) in capfd.readouterr().err
    assert not trace.exists()


@pytest.mark.parametrize("name", ["rows.pkl", "rows.py", "rows.json"])
def test_data_are_values(name, trace, inputs, tmp_path, run):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / name
    code = f"import os; os.mkdir({str(trace)!r})".encode()
    file.write_bytes(code if name.endswith(".py") else pickle.dumps(Bomb(trace)))
    words = ["--model_name_or_path", inputs.base, "--dataset_dir", tmp_path / "data"]
    assert name in run("check", *words, expect=2)
    assert not trace.exists()


def test_a_checkpoint_has_no_pickle(train, tmp_path):
    train(save_strategy="steps", save_steps=2)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert any(path.parent.name.startswith("checkpoint-") for path in files)
    pickled = [path.name for path in files if path.read_bytes()[:2] in (b"\x80\x04", b"\x80\x02", b"PK")]
    assert [name for name in pickled if not name.endswith(".zip")] == []
