"""`yangtuo eval` and `yangtuo generate` as a user has them, on tiny models; figures against plain forward passes."""

import csv
import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.command import Started, yangtuo
from yangtuo.cli import main
from yangtuo.data.encoding import EncodingOptions, encode, prompt_ids
from yangtuo.data.records import Record, Turn
from yangtuo.data.template_json import to_values
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.evaluation.probe_items import PROBE_SET

ROWS = tiny.rows(12)
VALIDATION = [{**row, "instruction": row["instruction"] + "（新）"} for row in ROWS[:7]]
PROBE_FILES = ("facts.jsonl", "instruction.jsonl", "passages.jsonl")
QUICK = ("--max_new_tokens", "6", "--use_cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, and a run of a few steps on it with validation rows."""
    place = tmp_path_factory.mktemp("eval")
    tiny.tiny_sentencepiece(tiny.tiny_llama(place / "base"))
    config = json.loads((place / "base" / "config.json").read_text())
    (place / "base" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))
    (place / "data").mkdir()
    tiny.write_rows(place / "data" / "rows.json", ROWS)
    tiny.write_rows(place / "valid.json", VALIDATION)
    words = [
        *("--model_name_or_path", place / "base", "--dataset_dir", place / "data", "--output_dir", place / "run"),
        *("--validation_file", place / "valid.json", "--template", "alpaca_zh", "--max_steps", 12, "--do_train"),
        *("--per_device_train_batch_size", 4, "--learning_rate", "5e-3", "--logging_strategy", "no", "--do_eval"),
        *("--save_strategy", "no", "--seed", 3, "--use_cpu"),
    ]
    assert main(["train", *map(str, words)]) == 0
    return place


@pytest.fixture
def evaluate(capfd):
    """Run the verb in this process; returns what it printed."""

    def call(*words, code=0):
        found = main(["eval", *map(str, words), *QUICK])
        call.out, call.err = capfd.readouterr()
        assert code is None or found == code, call.out + call.err
        call.code = found
        assert "Traceback" not in call.err
        return call.out + call.err

    return call


def results(place):
    return json.loads((place / "results.json").read_text(encoding="utf-8"))


def values(found, name):
    return next(measure for measure in found["measures"] if measure["name"] == name)


def plain_rows(folder, rows=VALIDATION):
    """Ids and supervised mask of each validation row."""
    tokenizer = open_tokenizer(folder / "base")
    records = [
        Record("v", i, (Turn("user", _asked(row), trained=False), Turn("assistant", row["output"], trained=True)))
        for i, row in enumerate(rows)
    ]
    examples, _ = encode(records, tokenizer, EncodingOptions(ALPACA_ZH, max_seq_length=512))
    return [examples.row(i) for i in range(len(examples))]


def _asked(row):
    return row["instruction"] + ("\n" + row["input"] if row["input"] else "")


def token_losses(model, ids, supervised):
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids.tolist()])).logits[0, :-1].float().log_softmax(-1)
    chosen = logp.gather(1, torch.tensor(ids[1:].astype(np.int64))[:, None])[:, 0].numpy()
    hits = logp.argmax(-1).numpy() == ids[1:]
    return -chosen[supervised[1:]].astype(np.float64), hits[supervised[1:]]


def test_base_against_tuned_on_the_rows_of_the_run(folder, evaluate, tmp_path):
    run = folder / "run"
    # A few items: what a random model has right of all of them is chance, and could fail the rule.
    probe = tmp_path / "probe.jsonl"
    lines = [(PROBE_SET / name).read_text(encoding="utf-8").splitlines()[:3] for name in PROBE_FILES]
    probe.write_text("\n".join(line for three in lines for line in three), encoding="utf-8")
    said = evaluate(run, "--compare", "--probe_file", probe, code=None)
    assert "verdict:" in said
    found = results(run / "evaluation")
    # A base of random weights knows the probe by chance alone, and may lose some of it.
    assert evaluate.code == (1 if found["verdict"]["outcome"] == "broken" else 0)
    assert {rule["name"]: rule["passed"] for rule in found["verdict"]["rules"]}["own_data"] is True
    assert found["verdict"]["text"] in (run / "sft_lora_model" / "README.md").read_text(encoding="utf-8")
    assert found["verdict"]["text"].split(" (")[0] in (run / "report.html").read_text(encoding="utf-8")
    assert [model["name"] for model in found["models"]] == ["base", "tuned"]
    assert found["data"] == [{"path": str(folder / "valid.json"), "num_rows": 7}]
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    plain = {"base": base, "tuned": None}
    rows = plain_rows(folder)
    for name in plain:
        model = base if name == "base" else PeftModel.from_pretrained(base, run / "sft_lora_model").eval()
        losses, hits = map(np.concatenate, zip(*(token_losses(model, *row) for row in rows), strict=True))
        assert values(found, "own/loss")["values"][name] == pytest.approx(losses.mean(), abs=1e-5)
        assert values(found, "own/perplexity")["values"][name] == pytest.approx(math.exp(losses.mean()), rel=1e-4)
        assert values(found, "own/token_accuracy")["values"][name] == pytest.approx(hits.mean())
    trained = json.loads((run / "eval_results.json").read_text())
    assert values(found, "own/loss")["values"]["tuned"] == pytest.approx(trained["eval_loss"], abs=1e-5)
    loss = values(found, "own/loss")
    assert loss["difference"]["estimate"] == pytest.approx(loss["values"]["tuned"] - loss["values"]["base"], abs=1e-9)
    assert loss["difference"]["low"] < loss["difference"]["estimate"] < loss["difference"]["high"] < 0
    assert {"own/rougeL", "own/bleu", "own/chrf", "own/ended", "probe/accuracy", "probe/loss"} <= {
        measure["name"] for measure in found["measures"]
    }
    answers = [json.loads(line) for line in (run / "evaluation" / "answers.jsonl").read_text().splitlines()]
    own = [answer for answer in answers if answer["task"] == "own"]
    assert [answer["reference"] for answer in own if answer["model"] == "base"] == [row["output"] for row in VALIDATION]


def test_one_model_alone_has_no_verdict(folder, evaluate, tmp_path):
    said = evaluate(
        folder / "base", "--validation_file", folder / "valid.json", "--no_probe", "--output_dir", tmp_path / "out"
    )
    assert "verdict" not in said
    found = results(tmp_path / "out")
    assert found["verdict"] is None
    assert [model["name"] for model in found["models"]] == ["model"]
    assert values(found, "own/loss")["difference"] is None


def test_scores_whose_packages_are_missing_are_left_out_and_said(folder, evaluate, tmp_path, monkeypatch):
    from yangtuo.evaluation import text_scores

    monkeypatch.setattr(text_scores, "_PACKAGES", {"no_such_package": "no-such-package"})
    said = evaluate(folder / "run", "--no_probe", "--output_dir", tmp_path / "out")
    assert "no-such-package" in said
    names = {measure["name"] for measure in results(tmp_path / "out")["measures"]}
    assert "own/exact_match" in names
    assert not {"own/rouge1", "own/bleu"} & names


def test_what_was_measured_is_not_measured_again(folder, evaluate, tmp_path):
    words = (folder / "run", "--compare", "--no_probe", "--output_dir", tmp_path / "out")
    evaluate(*words)
    first = results(tmp_path / "out")
    said = evaluate(*words)
    assert said.count("everything was measured before") == 2
    again = results(tmp_path / "out")
    assert again["measures"] == first["measures"]
    # Another task is measured, and the former lines stay.
    said = evaluate(*words, "--num_answers", 2)
    assert "prompts answered: 2" in said
    assert "read" not in said


def test_records_of_another_model_are_renamed(folder, evaluate, tmp_path):
    words = ("--validation_file", folder / "valid.json", "--no_probe", "--num_answers", 0, "--output_dir", tmp_path)
    evaluate(folder / "base", *words)
    other = shutil.copytree(folder / "base", tmp_path / "other")
    model = AutoModelForCausalLM.from_pretrained(other)
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.1
    model.save_pretrained(other)
    said = evaluate(other, *words)
    assert "is of another model" in said
    assert (tmp_path / "model.former.jsonl").is_file()


@pytest.mark.skipif(os.name == "nt", reason="a signal of Unix")
def test_an_evaluation_that_was_killed_goes_on(folder, tmp_path):
    many = [{**row, "instruction": f"{row['instruction']}{n}"} for n in range(20) for row in ROWS[:5]]
    tiny.write_rows(tmp_path / "many.json", many)
    words = [
        *("eval", folder / "run", "--validation_file", tmp_path / "many.json"),
        *("--no_probe", "--num_answers", 100, "--max_new_tokens", 40, "--micro_batch_tokens", 100, "--use_cpu"),
        *("--output_dir", tmp_path / "out"),
    ]
    process = Started(["-m", "yangtuo", *words], stdout="/dev/null", stderr="/dev/null")
    records = tmp_path / "out" / "tuned.jsonl"
    deadline = time.monotonic() + 300
    while not (records.is_file() and records.read_text().count("/answers/") >= 20) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() is None, "it was done before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    lines = records.read_text().splitlines()
    with records.open("a") as file:  # as a line that was being written
        file.write('{"task": "own/answers/')
    again = yangtuo(*words)
    assert again.code == 0, again.said
    after = [json.loads(line) for line in records.read_text().splitlines()]
    assert [json.dumps(one, ensure_ascii=False) for one in after[: len(lines)]] == lines
    assert "prompts answered: " in again.err
    assert yangtuo(*words[:-1], tmp_path / "once").code == 0
    assert results(tmp_path / "out")["measures"] == results(tmp_path / "once")["measures"]
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == (tmp_path / "once" / "answers.jsonl").read_bytes()


# ---- verdict


def test_a_model_that_is_worse_on_the_data_is_broken(folder, evaluate, tmp_path):
    words = ("--num_answers", 0, "--no_probe", "--output_dir", tmp_path / "out")
    said = evaluate(folder / "run", folder / "base", *words, code=1)
    assert "verdict: broken" in said
    verdict = results(tmp_path / "out")["verdict"]
    assert verdict["outcome"] == "broken"
    assert [rule["passed"] for rule in verdict["rules"] if rule["name"] == "own_data"] == [False]


def test_an_adapter_without_effect_shows_no_difference(folder, evaluate, tmp_path):
    idle = shutil.copytree(folder / "run", tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    from safetensors.torch import load_file, save_file

    path = idle / "sft_lora_model" / "adapter_model.safetensors"
    save_file({n: t * 0 for n, t in load_file(path).items()}, path, {"format": "pt"})
    words = (idle, "--compare", "--no_probe")
    assert "no difference shown" in evaluate(*words)
    assert "--gate" in evaluate(*words, "--gate", code=1)


# ---- multiple choice


def choice_folder(place):
    """C-Eval's files: two subjects of 20 questions, five exemplars each."""
    for subject in ("law", "high_school_physics"):
        for split, number in (("dev", 5), ("val", 20)):
            (place / split).mkdir(parents=True, exist_ok=True)
            with (place / split / f"{subject}_{split}.csv").open("w", encoding="utf-8", newline="") as file:
                table = csv.writer(file)
                table.writerow(["id", "question", "A", "B", "C", "D", "answer", *(["explanation"] * (split == "dev"))])
                for i in range(number):
                    row = [
                        i,
                        f"{subject}的第{i}个问题？",
                        *(f"{subject}{i}{k}" for k in "甲乙丙丁"),
                        "ABCD"[(i * 7) % 4],
                    ]
                    table.writerow([*row, *(["因为"] * (split == "dev"))])
    return place


def test_choices_are_scored_as_the_published_rule_scores_them(folder, evaluate, tmp_path):
    place = choice_folder(tmp_path / "ceval")
    evaluate(
        *(folder / "base", "--choices", place, "--choices_by", "both", "--shots", 2, "--no_probe"),
        *("--output_dir", tmp_path / "out"),
    )
    found = results(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    tokenizer = open_tokenizer(folder / "base")
    right = {}
    for subject, name in (("law", "法学"), ("high_school_physics", "高中物理")):
        with (place / "dev" / f"{subject}_dev.csv").open(encoding="utf-8") as file:
            dev = list(csv.DictReader(file))[:2]
        with (place / "val" / f"{subject}_val.csv").open(encoding="utf-8") as file:
            val = list(csv.DictReader(file))

        def asked(row):
            return row["question"] + "".join(f"\n{k}. {row[k]}" for k in "ABCD") + "\n答案："

        head = f"以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n\n"
        shots = "".join(f"{asked(row)}{row['answer']}\n\n" for row in dev)
        for row in val:
            text = head + shots + asked(row)
            scores = []
            for letter in "ABCD":
                alone, whole = tokenizer.encode([text, text + letter])
                assert whole[: len(alone)] == alone
                ids = torch.tensor([[tokenizer.bos_id, *whole]])
                with torch.no_grad():
                    logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
                scores.append(float(sum(logp[j, ids[0, j + 1]] for j in range(len(alone), len(whole)))))
            right.setdefault(subject, []).append("ABCD"[int(np.argmax(scores))] == row["answer"])
    everything = [hit for hits in right.values() for hit in hits]
    assert 0 < sum(everything) < 40
    assert values(found, "choice/ceval/accuracy")["values"]["model"] == sum(everything) / 40
    assert values(found, "choice/ceval/law")["values"]["model"] == sum(right["law"]) / 20
    assert values(found, "choice/ceval/STEM")["values"]["model"] == sum(right["high_school_physics"]) / 20
    assert values(found, "choice/ceval/generated/accuracy")["n"] == 40
    # Shots and options once: about a fifth of the work.
    assert found["computed"]["cells"] < 0.4 * found["computed"]["tokens"]


def test_malformed_files_of_choices_are_named_row_by_row(folder, evaluate, tmp_path):
    place = choice_folder(tmp_path / "ceval")
    path = place / "val" / "law_val.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[3] = lines[3].rsplit(",", 1)[0] + ",E"
    path.write_text("\n".join(lines), encoding="utf-8")
    said = evaluate(folder / "base", "--choices", place, "--no_probe", code=2)
    assert "law_val.csv" in said
    assert "answer" in said


# ---- refused


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "name the folder"),
        (["base", "base"], "the same folder twice"),
        (["base", "--gate"], "--compare"),
        (["base", "--no_probe"], "nothing to measure"),
        (["base", "--compare", "--no_probe", "--validation_file", "valid.json"], "--model_name_or_path"),
        (["base", "--shots", "-1"], "--shots"),
        (["base", "--no_probe", "--probe_file", "x.jsonl"], "--probe_file"),
        (["nowhere"], "nowhere"),
        (["base", "--validation_file", "missing.json"], "missing.json"),
        (["base", "--choices", "data"], "data"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_weights_are_loaded(folder, evaluate, monkeypatch, words, told):
    monkeypatch.chdir(folder)
    assert told in evaluate(*words, code=2)


def test_rows_that_the_model_has_no_positions_for_are_named(folder, evaluate, tmp_path):
    tiny.write_rows(tmp_path / "long.json", [{"instruction": "问", "input": "", "output": "长城" * 3000}])
    words = ("--validation_file", tmp_path / "long.json", "--max_seq_length", 8000, "--no_probe", "--num_answers", 0)
    said = evaluate(folder / "base", *words, "--output_dir", tmp_path / "out", code=2)
    assert "long.json row 0" in said


# ---- several models, and merged ones


def test_several_models_beside_each_other(folder, evaluate, tmp_path):
    words = ("--no_probe", "--num_answers", 0, "--output_dir", tmp_path / "out")
    evaluate(folder / "base", folder / "run", *words)
    found = results(tmp_path / "out")
    assert [model["name"] for model in found["models"]] == ["base", "run"]
    assert values(found, "own/loss")["difference"]["between"] == ["base", "run"]
    assert found["verdict"]["outcome"] in ("better", "no_difference")


def test_a_merged_model_beside_its_base(folder, evaluate, tmp_path):
    merging = ["merge", "--model_name_or_path", folder / "base", "--peft_path", folder / "run" / "sft_lora_model"]
    assert main([*map(str, merging), "--output_dir", str(tmp_path / "merged")]) == 0
    words = ("--validation_file", folder / "valid.json", "--no_probe", "--num_answers", 0)
    evaluate(
        *(tmp_path / "merged", "--compare", "--model_name_or_path", folder / "base", *words),
        *("--output_dir", tmp_path / "out"),
    )
    evaluate(folder / "run", "--compare", *words, "--output_dir", tmp_path / "adapter")
    merged, tuned = (values(results(tmp_path / name), "own/loss")["values"] for name in ("out", "adapter"))
    assert merged == pytest.approx(tuned, abs=1e-4)


# ---- generate


def test_generate_answers_a_file(folder, capfd, tmp_path):
    asked = ["请介绍长城。", "春天来了", "你好"]
    (tmp_path / "prompts.txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
    words = [
        "generate",
        folder / "run",
        "--file",
        tmp_path / "prompts.txt",
        "--out",
        tmp_path / "answers.jsonl",
        *QUICK,
    ]
    assert main(list(map(str, words))) == 0
    found = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [one["prompt"] for one in found] == asked
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, folder / "run" / "sft_lora_model").eval()
    tokenizer = open_tokenizer(folder / "base")
    for one in found:
        ids = torch.tensor([prompt_ids(tokenizer, ALPACA_ZH, [Turn("user", one["prompt"], trained=False)])])
        said = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=0
        )
        assert one["answer"] == tokenizer.decode(said[0, ids.shape[1] :].tolist()).rstrip("\ufffd")
    assert not list(tmp_path.glob(".*"))
    capfd.readouterr()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"--file": "nowhere.txt"}, "no such file"),
        ({"--out": "answers.txt"}, ".jsonl"),
        ({"--max_new_tokens": "0"}, "--max_new_tokens"),
        ({"--file": "valid.csv"}, "of a table, save the questions as a .txt"),
    ],
)
def test_generate_refuses(folder, capfd, tmp_path, monkeypatch, changes, told):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("你好\n", encoding="utf-8")
    Path("valid.csv").write_text("a,b\n", encoding="utf-8")
    values = {"--file": "prompts.txt", "--out": "answers.jsonl", **changes}
    words = [word for pair in values.items() for word in pair]
    assert main(["generate", str(folder / "run"), *words]) == 2
    assert told in capfd.readouterr().err


# ---- as a user may ask


def test_temperature_and_seed_decide_generated_answers(folder, capfd, tmp_path):
    (tmp_path / "prompts.txt").write_text("你好\n你好\n", encoding="utf-8")

    def answers(*words):
        asked = ("--file", tmp_path / "prompts.txt", "--out", tmp_path / "answers.jsonl", *words, *QUICK)
        assert main(["generate", *map(str, (folder / "run", *asked))]) == 0
        lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["answer"] for line in lines]

    drawn = answers("--temperature", 2, "--seed", 1)
    assert drawn[0] != drawn[1]  # each prompt has draws of its own
    assert answers("--temperature", 2, "--seed", 1) == drawn
    assert answers("--temperature", 2, "--seed", 2) != drawn
    greedy = answers("--temperature", 0)
    assert greedy[0] == greedy[1] != drawn[0]
    capfd.readouterr()


def test_the_adapter_of_a_run_is_that_run(folder, evaluate, tmp_path, monkeypatch):
    (tmp_path / "我 的").mkdir()
    run = shutil.copytree(folder / "run", tmp_path / "我 的" / "run", ignore=shutil.ignore_patterns("evaluation"))
    monkeypatch.chdir(run)
    evaluate("sft_lora_model", "--compare", "--no_probe")
    assert results(run / "evaluation")["data"] == [{"path": str(folder / "valid.json"), "num_rows": 7}]
    assert "verdict" in json.dumps(results(run / "evaluation"))
    assert not (run / "evaluation" / ".lock").exists()
    assert "the same folder twice" in evaluate(run, "sft_lora_model", "--no_probe", code=2)


def test_a_model_is_not_compared_with_itself(folder, evaluate, tmp_path):
    words = ("--compare", "--no_probe", "--validation_file", folder / "valid.json", "--output_dir", tmp_path / "out")
    assert "itself" in evaluate("--model_name_or_path", folder / "base", *words, code=2)
    assert "itself" in evaluate(folder / "base", "--model_name_or_path", folder / "base", *words, code=2)


def test_names_of_models_do_not_meet_those_of_files(folder, evaluate, tmp_path):
    for name in ("answers", "base"):
        shutil.copytree(folder / "base", tmp_path / name)
    words = ("--validation_file", folder / "valid.json", "--no_probe", "--num_answers", 2)
    evaluate(tmp_path / "answers", folder / "run", *words, "--output_dir", tmp_path / "one")
    assert [model["name"] for model in results(tmp_path / "one")["models"]] == ["1-answers", "2-run"]
    evaluate(folder / "run", tmp_path / "base", "--compare", *words, "--output_dir", tmp_path / "two")
    found = results(tmp_path / "two")
    assert [model["name"] for model in found["models"]] == ["base", "1-run", "2-base"]
    loss = values(found, "own/loss")["values"]
    assert loss["base"] == loss["2-base"] != loss["1-run"]


def test_a_folder_that_cannot_be_written_is_one_line(folder, evaluate, tmp_path):
    (tmp_path / "file").write_text("")
    words = ("--no_probe", "--num_answers", 0, "--output_dir")
    assert "--output_dir" in evaluate(folder / "run", *words, tmp_path / "file", code=2)
    assert "--output_dir" in evaluate(folder / "run", *words, tmp_path / "file" / "below", code=2)


def test_one_evaluation_at_a_time(folder, evaluate, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"):
        said = evaluate(folder / "run", "--no_probe", "--num_answers", 0, "--output_dir", tmp_path, code=2)
    assert "another process" in said


def test_models_with_templates_of_their_own_are_each_asked_in_it(folder, evaluate, tmp_path):
    template = to_values(ALPACA_ZH)
    template["opening"] = template["opening"].replace("Instruction", "Question")
    other = tiny.tiny_adapter(tmp_path / "other", folder / "base", template=template)
    words = ("--validation_file", folder / "valid.json", "--no_probe", "--num_answers", 0)
    said = evaluate(folder / "run", other, *words, "--output_dir", tmp_path / "both", code=1)  # a random adapter
    assert "templates: each model" in said
    evaluate(other, *words, "--output_dir", tmp_path / "alone")
    both, alone = (values(results(tmp_path / name), "own/loss")["values"] for name in ("both", "alone"))
    assert both["other"] == pytest.approx(alone["tuned"], abs=1e-6)


def test_an_adapter_on_another_one_has_another_base(folder, evaluate, tmp_path):
    words = [
        *("--model_name_or_path", folder / "base", "--peft_path", folder / "run" / "sft_lora_model", "--new_adapter"),
        *("--dataset_dir", folder / "data", "--output_dir", tmp_path / "stack", "--max_steps", 1, "--do_train"),
        *("--save_strategy", "no", "--use_cpu"),
    ]
    assert main(["train", *map(str, words)]) == 0
    asked = ("--compare", "--validation_file", folder / "valid.json", "--no_probe", "--num_answers", 0)
    evaluate(folder / "run", *asked, "--output_dir", tmp_path / "out")
    first = values(results(tmp_path / "out"), "own/loss")["values"]
    said = evaluate(tmp_path / "stack", *asked, "--output_dir", tmp_path / "out")
    assert "base.jsonl is of another model" in said
    assert values(results(tmp_path / "out"), "own/loss")["values"]["base"] == pytest.approx(first["tuned"], abs=1e-5)


def test_json_is_json(folder, evaluate, tmp_path):
    said = evaluate(folder / "run", "--compare", "--no_probe", "--output_dir", tmp_path, "--json")
    assert said
    assert json.loads(evaluate.out, parse_constant=pytest.fail)["version"] == 1
