"""What a user got wrong: one clear error each, exit code 2, no traceback, nothing written."""

import json
import os
import shutil

import pytest

from tests import tiny
from yangtuo.cli import main
from yangtuo.installing import pip_install


@pytest.fixture
def fails(inputs, tmp_path, capfd):
    """Run `yangtuo train` with some options changed; returns the error that was printed."""

    def run(**changes):
        code = main(["train", *inputs.options(tmp_path / "out", **changes)])
        said = capfd.readouterr().err
        assert code == 2, said
        assert "Traceback" not in said
        assert not (tmp_path / "out").exists()
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, said
        return said[said.index("error: ") :]

    return run


def test_max_seq_length_shorter_than_every_prompt(fails):
    said = fails(max_seq_length=20)
    assert (
        "none of the 24 rows can be trained on (the template's text around the prompt alone fills max_seq_length: 24)"
        in said
    )


def test_empty_folder(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no data file in it (found: nothing)" in fails(dataset_dir=tmp_path / "empty")


def test_folder_of_only_broken_json(fails, tmp_path, sentences):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.json").write_text('[{"instruction": "a", "output": "b"},\n {"instr')
    (tmp_path / "broken" / "b.json").write_text("not json")
    said = fails(dataset_dir=tmp_path / "broken")
    sentences(said, "a.json:2:3")
    assert "b.json:1:1: broken JSON: Expecting value" in said


def test_wrong_peft_path(fails, tmp_path):
    assert "no such folder; for a new LoRA, leave --peft_path out" in fails(peft_path=tmp_path / "nothing")


def test_peft_path_without_an_adapter_names_the_folder_that_has_one(fails, tmp_path):
    # In the order in which they are taken; each makes those before it the lesser choice.
    for name in ("another", "checkpoint-9", "checkpoint-10", "best", "sft_lora_model"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "adapter_config.json").write_text("{}")
        said = fails(peft_path=tmp_path / "run")
        assert "no adapter_config.json in that folder" in said
        assert f"did you mean its sub-folder {name!r}?" in said


@pytest.mark.parametrize("size", [0, 5000])
def test_weights_of_the_base_that_are_cut_short(run, inputs, tmp_path, size):
    base = tmp_path / "cut"
    shutil.copytree(inputs.base, base)
    with (base / "model.safetensors").open("r+b") as file:
        file.truncate(size)
    words = ["--per_device_train_batch_size", 1, "--max_steps", 1, "--dataset_dir", inputs.data]
    said = run("train", "--model_name_or_path", base, *words, "--output_dir", tmp_path / "out", expect=2)
    assert f"error: {base}: the weights cannot be loaded: " in said
    assert f"error: {base}: the weights cannot be loaded: " in run("chat", base, "--ask", "你好", expect=2)


def test_misspelt_trainable(fails, sentences):
    said = fails(trainable="q_proj,v_prj", modules_to_save="lm_haed")
    sentences(said, "--trainable")
    sentences(said, "--modules_to_save")


def test_a_module_that_is_like_none_is_answered_with_those_that_there_are(fails):
    said = fails(trainable="attention")
    assert "the base has no module 'attention'; it has down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj" in said


def test_attention_code_that_is_misspelt(fails, sentences):
    said = fails(attn_implementation="sdap")
    sentences(said, "--attn_implementation sdap")
    said = fails(attn_implementation="flex_attention", use_cpu=True)
    assert "--attn_implementation flex_attention: torch has no gradient" in said


def test_placeholder_left_in_the_script(fails):
    said = fails(model_name_or_path="path/to/hf/llama/or/merged/llama/dir/or/model_id")
    assert "no such folder; the script still has its placeholder" in said


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("model_name_or_path", "--model_name_or_path is missing"),
        ("dataset_dir", "--dataset_dir is missing"),
        ("output_dir", "--output_dir is missing"),
    ],
)
def test_missing_option(fails, missing, says):
    assert says in fails(**{missing: None})


def test_drop_last_that_would_leave_no_step(fails):
    said = fails(per_device_train_batch_size=32, dataloader_drop_last=True)
    assert "24 rows are fewer than the 32 of one step" in said
    assert "nothing would be trained" in said


def test_evaluation_without_rows_to_evaluate(fails, sentences):
    sentences(fails(do_eval=True, do_train=True), "--validation_file or")


@pytest.mark.parametrize(
    "words", [["merge"], ["vocab"], ["vocab", "merge"], ["cache"], ["cache", "foo"], ["demo", "--x"]]
)
def test_a_verb_called_wrongly_is_told_in_one_line(words, capfd):
    assert main(words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: yangtuo {words[0]}")
    assert line.endswith("--help lists the options")


def test_missing_validation_file(fails, tmp_path):
    assert "no such folder or file" in fails(validation_file=tmp_path / "valid.json")


def test_deepspeed_absent(fails, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "deepspeed" else real(name, *more)
    )
    assert pip_install("deepspeed") in fails(deepspeed="scripts/ds_zero2_no_offload.json")


def test_an_output_folder_that_cannot_be_made(fails):
    assert "--output_dir /proc/none/x: cannot be written" in fails(output_dir="/proc/none/x")


def test_new_rows_alone_under_zero3_on_a_cpu(fails, tmp_path):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (extra deepspeed)")
    base = tiny.tiny_llama(tmp_path / "base", num_rows=400)
    tokenizer = tiny.tiny_sentencepiece(tmp_path / "tokenizer")
    options = {"model_name_or_path": base, "tokenizer_name_or_path": tokenizer, "train_new_tokens_only": True}
    said = fails(**options, deepspeed='{"zero_optimization": {"stage": 3}}')
    assert "--train_new_tokens_only under ZeRO-3 needs a GPU" in said


def test_weights_that_the_files_lack(fails, tmp_path):
    from safetensors.torch import load_file, save_file

    base = tiny.tiny_llama(tmp_path / "base")
    tiny.tiny_sentencepiece(base)
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    code = main(["train", "--model_name_or_path", str(base), "--dataset_dir", str(tmp_path), "--output_dir", "x"])
    assert code == 2  # the folder has no rows; the weights come later
    assert "1 weights are not in the files" in _weights_error(base)


def _weights_error(base):
    import torch

    from yangtuo.config.schema import ModelArguments
    from yangtuo.errors import ModelError
    from yangtuo.model.base import load
    from yangtuo.model.processor import Precision

    with pytest.raises(ModelError) as caught:
        load(base, Precision(torch.float32), ModelArguments())
    return str(caught.value)


def test_unknown_verb_and_unknown_option(capfd):
    assert main(["trian"]) == 2
    assert main(["train", "--lora_rnk", "8"]) == 2
    said = capfd.readouterr().err
    assert "unknown verb 'trian'; did you mean 'train'?" in said
    assert "unknown option '--lora_rnk'; did you mean '--lora_rank'?" in said


class Harmful:
    """Pickled, it makes a folder when the file is loaded."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.mkdir, (self.trace,)


def test_an_old_adapter_file_with_code_in_it_is_refused_and_not_run(fails, tmp_path):
    import torch

    trace = tmp_path / "code has run"

    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}))
    torch.save({"weight": Harmful(trace)}, folder / "adapter_model.bin")
    assert "adapter_model.bin: refused, it is no plain file of tensors" in fails(peft_path=folder)
    assert not trace.exists()
    torch.load(folder / "adapter_model.bin", weights_only=False)  # the control: it would have run
    assert trace.exists()


def test_all_bad_rows_are_named_at_once(fails, tmp_path):
    (tmp_path / "bad").mkdir()
    rows = [{"instruction": "a", "output": None}, {"instruction": "", "output": "b"}, {"output": "c"}, 5]
    (tmp_path / "bad" / "a.json").write_text(json.dumps(rows))
    said = fails(dataset_dir=tmp_path / "bad")
    assert "data (4 problems):" in said
    for row in range(4):
        assert f"a.json:1 row {row}: " in said


def test_half_a_surrogate_pair_is_a_fault_of_the_row(fails, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.json").write_text(r'[{"instruction": "a", "output": "x \ud800"}]')
    assert "row 0: 'output' has half of a surrogate pair" in fails(dataset_dir=tmp_path / "bad")


def test_missing_train_file_names_its_own_option(fails, tmp_path):
    assert "--train_file nothing.json: no such" in fails(dataset_dir=None, train_file="nothing.json")


def test_a_device_whose_memory_is_full_is_one_line(monkeypatch, capfd):
    """Wherever it happens: while the base is loaded, in an evaluation, in a proof."""
    import torch

    from yangtuo import cli

    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 23 GiB")

    monkeypatch.setattr(cli, "_run", full)
    assert cli.main(["train"]) == 1
    said = capfd.readouterr().err
    assert said.startswith(
        "error: the memory of the device is full (CUDA out of memory. Tried to allocate 2.00 GiB. GPU"
    )
    assert "--load_in_4bit" in said
    assert said.count("\n") == 1


def test_other_errors_of_a_library_stay_what_they_are(monkeypatch):
    from yangtuo import cli

    def broken(*args):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(cli, "_run", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main(["train"])


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK"])
def test_a_launchers_variable_that_is_no_number_is_one_line(name, capfd, monkeypatch):
    monkeypatch.setenv(name, "abc")
    for verb in ("train", "check", "chat", "eval"):
        assert main([verb]) == 2
        said = capfd.readouterr().err
        assert said.startswith(f"error: {name}=abc")
        assert len(said.splitlines()) == 1
