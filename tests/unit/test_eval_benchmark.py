"""`benchmarks/eval.py`: its questions, its comparison, and a run of it on a tiny model."""

import json
import sys

import pytest
from eval_parts import questions, summary
from eval_parts.measure import Run

from tests import tiny
from tests.command import REPOSITORY, run
from yangtuo.evaluation.choice_files import read_choice_folder

PROGRAM = REPOSITORY / "benchmarks" / "eval.py"


def test_a_small_run_is_measured_compared_and_recorded(tmp_path):
    model = tiny.tiny_llama(tiny.tiny_json_tokenizer(tmp_path / "model"), num_rows=420)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    words = ["--model", model, "--template", "chatml", "--subjects", 1, "--questions", 2, "--plain_questions", 1]
    words += ["--dialogues", 3, "--max_new_tokens", 3, "--generate_batches", "1,2", "--rounds", 1]
    done = run([sys.executable, PROGRAM, *words, "--json", tmp_path / "result.json"], cwd=tmp_path)
    assert done.code == 0, done.said
    record = json.loads((tmp_path / "result.json").read_text())
    choices, answers = record["choices"], record["answers"]
    ours, plain = choices["summary"]["ours"], choices["summary"]["plain forwards"]
    assert (ours["rows"], plain["rows"]) == (8, 4)
    assert plain["largest_difference"] < 1e-4
    assert plain["cells_per_row"] > 4 * ours["cells_per_row"]
    # Plain forwards compute each row's tokens but the last; rows are about as long as each other.
    assert plain["cells_per_row"] == pytest.approx(choices["asked"]["tokens"] / 8 - 1, rel=0.1)
    assert {name: entry["different"] for name, entry in answers["summary"].items()} == {
        "ours": 0,
        "generate, 1 a batch": 0,
        "generate, 2 a batch": 0,
    }
    assert answers["summary"]["generate, 1 a batch"]["cells_per_row"] > answers["summary"]["ours"]["cells_per_row"]
    (of_round,) = choices["rounds"]
    assert all(one["rows"] / one["seconds"] > 0 and one["processor_seconds"] > 0 for one in of_round)
    assert str(tmp_path) not in json.dumps(record)


def test_questions_are_of_the_length_of_published_ones_and_all_different(tmp_path):
    folder = read_choice_folder(questions.write_folder(tmp_path, 4, 20))
    assert folder.benchmark == "ceval"
    assert folder.notes == ()  # all subjects are known
    asked = folder.questions["val"]
    assert len(asked) == 80
    assert all(60 <= len(one.question) + sum(map(len, one.options)) <= 120 for one in asked)
    assert all(len(set(one.options)) == 4 for one in asked)
    assert len({one.question for one in [*asked, *folder.questions["dev"]]}) == 100
    assert all(len(folder.exemplars(subject)) == questions.SHOTS for subject in questions.SUBJECTS)
    assert min(sum(one.answer == letter for one in asked) for letter in "ABCD") > 8


def test_dialogues_are_all_different():
    asked = questions.dialogues(64)
    assert len(set(asked)) == 64
    assert questions.dialogues(8) == asked[:8]


def rows(number, *logps):
    return {f"law/{number}/{letter}": logp for letter, logp in zip("ABCD", logps, strict=True)}


def measured(name, found, seconds=1.0, processor_seconds=1.0):
    return Run(name, len(found), seconds, processor_seconds, 10 * len(found), found)


def test_ratios_are_of_rates_within_a_round():
    ours, part = rows(1, -1, -2, -3, -4) | rows(2, -4, -3, -2, -1), rows(1, -1, -2, -3, -4)
    done = [
        [measured("ours", ours, 2.0, 1.0), measured("other", part, 4.0, 4.0)],  # 4 rows/s and 1, 8 and 1
        [measured("other", part, 2.0, 2.0), measured("ours", ours, 4.0, 2.0)],  # 2 rows/s and 2, 4 and 2
    ]
    entry = summary.summarise(done, are_choices=True)["other"]
    assert entry["ours_is_faster"] == [4.0, 1.0]
    assert entry["ours_is_faster_by_processor"] == [8.0, 2.0]
    assert (entry["rows_per_s"], entry["rows_per_processor_s"], entry["cells_per_row"]) == (1.5, 1.5, 10)
    assert (entry["largest_difference"], entry["different"]) == (0, 0)
    assert summary.faults({"other": entry}, "letters") == []


def test_other_log_probabilities_and_other_letters_are_faults():
    ours = rows(1, -1, -2, -3, -4)
    off = summary.summarise([[measured("ours", ours), measured("off", rows(1, -1, -2, -3, -4.01))]], are_choices=True)
    assert off["off"]["largest_difference"] == pytest.approx(0.01)
    (told,) = summary.faults(off, "letters")
    assert "off" in told
    other = summary.summarise([[measured("ours", ours), measured("other", rows(1, -2, -1, -3, -4))]], are_choices=True)
    assert other["other"]["different"] == 1
    assert len(summary.faults(other, "letters")) == 2
    said = [[measured("ours", {"a": "x", "b": "y"}), measured("other", {"a": "x", "b": "z"})]]
    (told,) = summary.faults(summary.summarise(said, are_choices=False), "answers")
    assert "other: 1" in told
