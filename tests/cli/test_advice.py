"""The learning rate that is refused, and what `check` and `train` say of a run beside what is published."""

import json

import pytest

from tests import tiny
from yangtuo.cli import main


@pytest.fixture
def check(inputs, tmp_path, capfd):
    """`yangtuo check` with the base named; returns standard output and what was said."""

    def call(*words, expect=0, **changes):
        assert main(["check", *inputs.options(tmp_path / "out", **changes), *words]) in (
            [expect] if expect else [0, None]
        )
        return capfd.readouterr()

    return call


def advised(check, *words, **changes):
    return json.loads(check("--json", *words, **changes).out)["advice"]


def test_a_rate_that_nobody_means_is_refused_before_anything_is_read(train, tmp_path, sentences):
    said = train(learning_rate=1, expect=2)
    sentences(said, "--force_learning_rate")
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    train(tmp_path / "forced", learning_rate=1, force_learning_rate=True, max_steps=1)
    assert (tmp_path / "forced" / "sft_lora_model").is_dir()


def test_check_says_what_training_would_refuse(check):
    out, err = check(learning_rate=1, expect=2)
    assert "do not train on this yet" in out
    assert err.splitlines()[-1].startswith("error: check: not to be trained on yet: --learning_rate 1 is 690 times")
    out, _ = check("--force_learning_rate", learning_rate=1)
    assert out.count("--learning_rate 1 is 690 times") == 1


def test_a_rate_ten_times_off_is_said_and_trained_at(train, check, tmp_path):
    said = train(learning_rate=0.02)
    assert said.count("--learning_rate 0.02 is 14 times the 1.4e-3") == 1
    assert "learning rate 0.02;" not in said
    assert "is 14 times" in " ".join(json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["plan"])
    assert "! --learning_rate 0.02 is 14 times" in check(learning_rate=0.02).out
    assert "! --learning_rate 1e-6 is 1/1,449 of the 1.4e-3" in check(learning_rate=1e-6).out


def test_a_good_rate_is_one_line(train):
    said = train()
    assert "learning rate 0.01; published work recommends about 1.4e-3 for LoRA on this base (tinker-cookbook's" in said
    assert " times the " not in said


def test_the_table_and_its_values(check):
    out = check(max_steps=40).out
    for words in ("will it learn?", "published", "yours", "learning rate", "rank", "batch", "steps", "epochs"):
        assert words in out
    found = advised(check, max_steps=40)
    assert found["learning_rate"] == pytest.approx(1.4493e-3, rel=1e-3)
    assert [(row["name"], row["yours"], row["fits"]) for row in found["rows"]] == [
        ("learning rate", "0.01", True),
        ("rank", "8, alpha 32", True),
        ("parameters", "8,192; 1,350 tokens", True),
        ("batch", "4", True),
        ("steps", "40", False),
        ("epochs", "6.67 of 24 rows", True),
    ]


def test_many_epochs_are_a_finding(check):
    assert "24 rows 20 times over" in check(max_steps=120).out
    assert "times over" not in check(max_steps=60).out


@pytest.mark.parametrize("options", [{"optim": "sgd"}, {"optim": "adafactor"}, {"do_eval": True, "do_train": "False"}])
def test_what_nothing_published_covers_is_not_judged(options, check, inputs):
    validation = inputs.validation if "do_eval" in options else None
    assert advised(check, learning_rate=5, validation_file=validation, **options) is None


def test_an_optimizer_of_a_deepspeed_file_decides(check, tmp_path):
    file = tmp_path / "deepspeed.json"
    for kind, covered in (("AdamW", True), ("Lion", False)):
        file.write_text(json.dumps({"optimizer": {"type": kind, "params": {}}}))
        assert (advised(check, deepspeed=file) is not None) == covered
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert advised(check, deepspeed=file)


def test_an_adapter_that_is_continued_brings_its_rank(check, tmp_path):
    values = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": True, "modules_to_save": ["lm_head"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps({**values, "target_modules": ["q_proj"]}))
    found = advised(check, peft_path=tmp_path)
    assert found["rows"][1]["yours"] == "4, alpha 8, rsLoRA"
    assert found["rows"][0]["yours"] == "0.01 (as 5e-3 with alpha 32)"
    assert "lm_head: trained in full" in found["notes"][0]
    assert found["findings"] == []  # its modules are as they are
    assert advised(check, "--new_adapter", peft_path=tmp_path)["rows"][1]["yours"] == "8, alpha 32"


def test_attention_alone_is_a_finding(check):
    assert "only attention gets LoRA (q_proj,v_proj)" in check(trainable="q_proj,v_proj").out


def test_without_a_base_there_is_no_table(check, inputs, tmp_path):
    out = check(model_name_or_path=None, tokenizer_name_or_path=inputs.base, learning_rate=1).out
    assert "will it learn?" not in out
    config = tiny.tiny_llama(tmp_path / "base") / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": None}))
    assert advised(check, model_name_or_path=config.parent, tokenizer_name_or_path=inputs.base) is None
