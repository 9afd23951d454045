"""`yangtuo encode`: what training sees, for other programs."""

import json
import subprocess
import sys

from tests import served_templates, tiny
from tests.command import yangtuo
from yangtuo.cli import main
from yangtuo.data.encoding import EncodingOptions, encode
from yangtuo.data.readers import reader, search
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer


def test_every_kept_row_with_its_file_and_number(inputs, tmp_path, capfd):
    out = tmp_path / "rows.jsonl"
    words = ["--model_name_or_path", inputs.base, "--dataset_dir", inputs.data, "--out", out, "--max_seq_length", 120]
    assert main(["encode", *map(str, words)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    read, _ = reader.read(search.find_files(str(inputs.data)))
    expected, _ = encode(read, open_tokenizer(inputs.base), EncodingOptions(ALPACA_ZH, 120))
    assert len(rows) == len(expected)
    for i, row in enumerate(rows):
        assert row.keys() == {"file", "row", "input_ids", "labels"}
        assert (row["file"], row["row"]) == (expected.source(i), expected.rows[i])
        assert row["input_ids"] == expected.row(i)[0].tolist()
        assert row["labels"] == expected.labels(i).tolist()
    assert f"data: {len(expected)} of 24 rows" in capfd.readouterr().err


def test_standard_output_and_a_reader_that_leaves(inputs):
    words = [sys.executable, "-m", "yangtuo", "encode", "--tokenizer_name_or_path", inputs.base]
    words += ["--dataset_dir", inputs.data, "--out", "-"]
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_ids_go_to_standard_output_alone(inputs):
    done = yangtuo("encode", "--tokenizer_name_or_path", inputs.base, "--dataset_dir", inputs.data, "--out", "-")
    assert done.code == 0
    assert len([json.loads(line) for line in done.out.splitlines()]) == 24


def test_out_is_needed_and_has_to_be_writable(inputs, tmp_path, capfd):
    words = ["encode", "--tokenizer_name_or_path", str(inputs.base), "--dataset_dir", str(inputs.data)]
    assert main(words) == 2
    assert main([*words, "--out", str(tmp_path / "no" / "folder.jsonl")]) == 2
    said = capfd.readouterr().err
    assert "--out is missing" in said
    assert "No such file or directory" in said


def test_encode_loads_no_weights_and_starts_without_the_model(inputs, tmp_path):
    (inputs.base / "model.safetensors").rename(tmp_path / "away")
    try:
        words = ["--model_name_or_path", inputs.base, "--dataset_dir", inputs.data, "--out", tmp_path / "rows.jsonl"]
        assert main(["encode", *map(str, words)]) == 0
    finally:
        (tmp_path / "away").rename(inputs.base / "model.safetensors")


def test_the_examples_of_a_dialogue_stand_one_behind_another_with_their_places(inputs, tmp_path):
    """As in transformers' collator for rows without padding."""
    tokenizer, data, out = tmp_path / "t", tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    tiny.tiny_json_tokenizer(tokenizer)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = served_templates.QWEN3
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    said = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate("问答再好")]
    data.write_text(json.dumps({"messages": said}) + "\n" + json.dumps({"messages": said[:2]}), encoding="utf-8")
    words = ["encode", "--tokenizer_name_or_path", str(tokenizer), "--dataset_dir", str(data), "--out", str(out)]
    assert main(words) == 0
    first, second = (json.loads(line) for line in out.read_text(encoding="utf-8").splitlines())
    assert (first["row"], second["row"]) == (0, 1)
    assert "position_ids" not in second
    begin = len(second["input_ids"])
    assert first["input_ids"][:begin] == second["input_ids"]
    assert first["labels"][:begin] == second["labels"]
    assert first["position_ids"] == [*range(begin), *range(len(first["input_ids"]) - begin)]
    assert main([*words, "--history", "one_example"]) == 0
    alone = json.loads(out.read_text(encoding="utf-8").splitlines()[0])
    assert alone["input_ids"] == first["input_ids"][begin:]
