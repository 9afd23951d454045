"""A wrong path is answered before the libraries that compute are imported, which takes seconds: for every verb."""

import json
import subprocess
import sys

import pytest

from yangtuo.cli import VERBS

# By verb: words with a path that is not there, and what of it the error names. BASE, ROWS and RUN are there.
WRONG = {
    "train": [
        (["--model_name_or_path", "./nothing", "--train_file", "ROWS", "--output_dir", "out"], "--model_name_or_path"),
        (["--model_name_or_path", "BASE", "--train_file", "nothing.json", "--output_dir", "out"], "--train_file"),
        (["--model_name_or_path", "BASE", "--dataset_dir", "nothing", "--output_dir", "out"], "--dataset_dir"),
        (["--model_name_or_path", "BASE", "--train_file", "ROWS", "--peft_path", "nothing"], "--peft_path"),
        (["--model_name_or_path", "BASE", "--train_file", "ROWS", "--validation_file", "nothing.json"], "nothing.json"),
        (["--model_name_or_path", "BASE", "--tokenizer_name_or_path", "./nothing"], "--tokenizer_name_or_path"),
    ],
    "check": [
        (["--model_name_or_path", "./nothing", "--train_file", "ROWS"], "--model_name_or_path"),
        (["--model_name_or_path", "BASE", "--train_file", "nothing.json"], "--train_file"),
    ],
    "preview": [(["--model_name_or_path", "./nothing", "--train_file", "ROWS"], "--model_name_or_path")],
    "encode": [(["--model_name_or_path", "./nothing", "--train_file", "ROWS", "--out", "-"], "--model_name_or_path")],
    "chat": [
        (["./nothing", "--ask", "?"], "./nothing"),
        (["--peft_path", "./nothing", "--ask", "?"], "--peft_path"),
        (["RUN", "--model_name_or_path", "./nothing", "--ask", "?"], "--model_name_or_path"),
    ],
    "generate": [
        (["./nothing", "--file", "ROWS", "--out", "a.jsonl"], "./nothing"),
        (["BASE", "--file", "nothing.txt", "--out", "a.jsonl"], "--file"),
    ],
    "eval": [
        (["./nothing"], "./nothing"),
        (["BASE", "--validation_file", "nothing.json"], "--validation_file"),
        (["BASE", "--probe_file", "nothing.jsonl"], "nothing.jsonl"),
        (["BASE", "--choices", "nothing"], "nothing"),
    ],
    "report": [(["./nothing"], "nothing")],
    "merge": [
        (["./nothing", "--output_dir", "out"], "./nothing"),
        (["--model_name_or_path", "BASE", "--peft_path", "nothing", "--output_dir", "out"], "--peft_path"),
        (["RUN", "--model_name_or_path", "./nothing", "--output_dir", "out"], "--model_name_or_path"),
        (["RUN", "--output_dir", "TAKEN"], "--output_dir"),
    ],
    "export": [
        (["./nothing", "--output_dir", "out"], "./nothing"),
        (["RUN", "--output_dir", "out", "--gguf", "q4_k_m"], "llama-quantize"),
    ],
    "check-deploy": [(["--url", "http://127.0.0.1:1", "--model_dir", "./nothing"], "--model_dir")],
    "vocab": [
        (["merge", "nothing.model", "other.model", "--out", "out"], "nothing.model"),
        (["resize", "./nothing", "BASE", "--out", "out"], "nothing"),
        (["train", "nothing.txt", "--out", "out.model"], "nothing.txt"),
        (["stats", "nothing.txt", "--tokenizer", "BASE"], "nothing.txt"),
    ],
}
NO_PATH = {"doctor", "cache", "demo"}  # take none that has to be there
CODE = """
import contextlib, io, json, sys
from yangtuo.cli import main
found = []
for verb, words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main([verb, *words])
    found.append([code, said.getvalue(), [name for name in ("torch", "transformers", "peft") if name in sys.modules]])
print(json.dumps(found))
"""


def test_every_verb_is_looked_at():
    assert set(WRONG) | NO_PATH == set(VERBS)


@pytest.fixture(scope="module")
def places(inputs, tmp_path_factory):
    """A base, rows, a run whose adapter names the base, and a folder that is taken."""
    folder = tmp_path_factory.mktemp("places")
    adapter = folder / "run" / "sft_lora_model"
    adapter.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": str(inputs.base)}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (folder / "taken").mkdir()
    (folder / "taken" / "file").touch()
    rows = inputs.data / "a.json"
    return {"BASE": inputs.base, "ROWS": rows, "RUN": folder / "run", "TAKEN": folder / "taken", "here": folder}


def test_nothing_heavy_is_loaded_for_it(places):
    """One fresh interpreter for all of them: what the first does not load, the last does not find."""
    calls = [(verb, words, told) for verb, several in WRONG.items() for words, told in several]
    given = [(verb, [str(places.get(word, word)) for word in words]) for verb, words, _ in calls]
    command = [sys.executable, "-c", CODE, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=places["here"])
    for (verb, words, told), (code, said, loaded) in zip(calls, json.loads(done.stdout), strict=True):
        assert code == 2, (verb, words, said)
        assert told in said.splitlines()[-1], (verb, words, said)
        assert loaded == [], (verb, words, said)
