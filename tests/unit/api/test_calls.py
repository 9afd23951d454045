"""A run by the API from its rows to answers, and what a call leaves of the caller's process."""

import json
import logging
import sys
import warnings

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM

import yangtuo
from yangtuo import logs
from yangtuo.cli import main
from yangtuo.data.encoding import prompt_ids
from yangtuo.data.records import Turn
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError, OutOfMemoryError, RunFolderError, UsageError, WriteError

QUESTION = "请介绍一下长城。"


@pytest.fixture(scope="module")
def options(inputs):
    return {
        "model_name_or_path": inputs.base,
        "dataset_dir": inputs.data,
        "max_seq_length": 384,
        "data_cache_dir": inputs.base.parent / "encoded",
    }


@pytest.fixture
def bare(monkeypatch):
    """The logger as in a program that has set up nothing."""
    logger = logging.getLogger("yangtuo")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    return logger


@pytest.fixture(scope="module")
def trained(options, tmp_path_factory):
    return yangtuo.train(
        **options,
        output_dir=tmp_path_factory.mktemp("api") / "out",
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=0.01,
        lora_dropout=0,
        save_strategy="no",
    )


def test_a_run_says_what_it_has_left(trained):
    log = [json.loads(line) for line in (trained.output_dir / "log.jsonl").read_text().splitlines()]
    steps = [(line["step"], line["loss"]) for line in log if "loss" in line]
    assert list(trained.losses) == steps
    assert [step for step, _ in steps] == [1, 2, 3] == list(range(1, trained.num_steps + 1))
    assert trained.adapter == trained.output_dir / "sft_lora_model"
    assert trained.proof["passed"] is True
    assert trained.metrics["train_loss"] == pytest.approx(np.mean([loss for _, loss in steps]), rel=1e-6)
    assert trained.report == trained.output_dir / "report.html"
    assert any("yangtuo chat" in line for line in trained.next_commands)
    recorded = json.loads((trained.output_dir / "run.json").read_text())
    assert recorded["arguments"]["max_steps"] == {"value": 3, "from": "Python"}
    assert list(trained.notes) == recorded["notes"]


def test_it_is_the_run_of_the_command_line(trained, inputs, tmp_path):
    words = inputs.options(tmp_path / "out", max_steps=3, max_seq_length=384)
    assert main(["train", *words]) == 0
    lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines if '"loss"' in line] == [loss for _, loss in trained.losses]


def test_in_a_notebook_it_is_shown_with_its_curve(trained):
    html = trained._repr_html_()
    assert html.count("<svg") == 1
    assert html.count('class="line') == 1
    assert "3 steps" in html


def test_a_finished_run_is_not_trained_again(trained, options):
    before = (trained.output_dir / "log.jsonl").read_bytes()
    again = yangtuo.train(
        **options,
        output_dir=trained.output_dir,
        per_device_train_batch_size=4,
        max_steps=3,
        learning_rate=0.01,
        lora_dropout=0,
        save_strategy="no",
    )
    assert again.losses == trained.losses
    assert (trained.output_dir / "log.jsonl").read_bytes() == before
    with pytest.raises(RunFolderError, match="max_steps"):
        yangtuo.train(**options, output_dir=trained.output_dir, max_steps=4, per_device_train_batch_size=4)


def greedy(model, folder, question, num):
    """By plain transformers: the likeliest token, again and again."""
    tokenizer = open_tokenizer(folder)
    ids = prompt_ids(tokenizer, ALPACA_ZH, [Turn("user", question, trained=False)])
    start = len(ids)
    for _ in range(num):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1, : tokenizer.num_tokens]
        ids.append(int(logits.argmax()))
        if ids[-1] == tokenizer.eos_id:
            break
    return tokenizer.decode(ids[start:]).rstrip("\ufffd")


def test_answers_are_those_of_plain_peft(trained, inputs):
    chat = yangtuo.load(trained.output_dir, max_new_tokens=12, temperature=0)
    base = AutoModelForCausalLM.from_pretrained(inputs.base)
    assert chat.base.ask(QUESTION).text == greedy(base, inputs.base, QUESTION, 12)
    tuned = PeftModel.from_pretrained(base, trained.adapter).eval()
    answer = chat.ask(QUESTION)
    assert answer.text == greedy(tuned, inputs.base, QUESTION, 12)
    assert answer.num_tokens == 12
    assert "".join(chat.stream(QUESTION)) == answer.text
    assert chat.base.base is None


def test_questions_are_dialogues_of_their_own_unless_asked_for(trained):
    chat = yangtuo.load(trained.output_dir, max_new_tokens=4)
    first = chat.ask(QUESTION)
    assert chat.ask(QUESTION).num_prompt_tokens == first.num_prompt_tokens
    assert chat.ask(QUESTION, multi_turn=True).num_prompt_tokens > first.num_prompt_tokens
    chat.clear()
    assert chat.ask(QUESTION, multi_turn=True).num_prompt_tokens == first.num_prompt_tokens


def test_a_model_that_streams_is_asked_nothing_else(trained):
    """The base alone is the same weights with the adapter switched off: both at once would mix them."""
    chat = yangtuo.load(trained.output_dir, max_new_tokens=12)
    wanted = chat.ask(QUESTION).text
    pieces = chat.base.stream(QUESTION)
    next(pieces)
    with pytest.raises(UsageError, match="still being streamed"):
        chat.ask(QUESTION)
    pieces.close()
    assert chat.ask(QUESTION).text == wanted
    with pytest.raises(UsageError, match="empty"):
        chat.ask("  ")


def test_merge_export_and_evaluate_take_the_runs_folder(trained, inputs, tmp_path):
    merged = yangtuo.merge(trained.output_dir, output_dir=tmp_path / "merged")
    record = json.loads((merged.folder / "merge.json").read_text())
    assert [one["folder"] for one in record["adapters"]] == [str(trained.adapter.resolve())]
    assert record["base"]["folder"] == str(inputs.base.resolve())
    assert merged.proofs == record["proofs"]
    by_option = yangtuo.merge(peft_path=trained.output_dir, model_name_or_path=inputs.base, output_dir=tmp_path / "b")
    same = (merged.folder / "model.safetensors").read_bytes() == (by_option.folder / "model.safetensors").read_bytes()
    assert same
    served = yangtuo.export(trained.output_dir, output_dir=tmp_path / "served", gguf="f16")
    assert (served.folder / "model.safetensors").read_bytes() == (merged.folder / "model.safetensors").read_bytes()
    assert served.gguf == served.folder / "model-f16.gguf"
    assert served.gguf.is_file()
    found = yangtuo.evaluate(
        *(trained.output_dir, merged.folder),
        validation_file=inputs.validation,
        output_dir=tmp_path / "eval",
        no_probe=True,
        num_answers=0,
    )
    own = found.measures["own/loss"]
    assert own["out"] == pytest.approx(own["merged"], abs=1e-4)  # the same adapter, in the base or beside it
    assert found.outcome == "no_difference"
    assert found.report == json.loads((tmp_path / "eval" / "results.json").read_text())


@pytest.mark.parametrize(
    ("kind", "told"),
    [("q4_k_m", "model-q4_k_m.gguf Q4_K_M"), ("Q5_K_S", "Q5_K_S"), ("q9", "there are f32, f16, q8_0")],
)
def test_kinds_of_gguf_that_llama_cpp_makes(trained, tmp_path, kind, told):
    with pytest.raises(UsageError) as caught:
        yangtuo.export(trained.output_dir, output_dir=tmp_path / "served", gguf=kind)
    assert told in str(caught.value)
    assert ("llama-quantize" in str(caught.value)) == (kind != "q9")
    assert not (tmp_path / "served").exists()


def test_check_is_a_verdict_and_no_exception(options, tmp_path):
    found = yangtuo.check(**options)
    assert (found.verdict, found.is_good_to_train) == ("look", True)
    assert found.report["train"]["rows_read"] == 24
    short = yangtuo.check(**{**options, "max_seq_length": 64}, out=tmp_path / "audit")
    assert (short.verdict, short.is_good_to_train) == ("bad", False)
    assert any(finding.is_bad for finding in short.findings)
    assert (tmp_path / "audit" / "data_audit.json").is_file()
    with pytest.raises(DataError):
        yangtuo.check(**{**options, "max_seq_length": 20})


def test_rows_are_what_training_sees(options, inputs, tmp_path):
    rows = list(yangtuo.encode(**options))
    assert main(["encode", *_words(options), "--out", str(tmp_path / "rows.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row.row, row.input_ids, row.labels) for row in rows] == [
        (line["row"], line["input_ids"], line["labels"]) for line in lines
    ]
    shown = yangtuo.preview(**options, row=3)
    (first,) = [row for row in rows if row.row == 3 and row.file.endswith("a.json")]
    assert [i for token in shown[0].tokens for i in token.ids] == first.input_ids
    assert shown[0].num_trained == sum(label != -100 for label in first.labels)
    assert shown[0].trained_text.endswith("</s>")
    assert len(yangtuo.preview(**options, num_rows=1)) == 4
    with pytest.raises(UsageError, match="no such row"):
        yangtuo.preview(**options, row=99)


def _words(options):
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def test_the_callers_process_stays_as_it_was(options, tmp_path, capfd, bare, trained):
    library = transformers.utils.logging
    library.set_verbosity_info()
    library.enable_progress_bar()  # a verb in this process has disabled it
    filters, root = list(warnings.filters), list(logging.getLogger().handlers)
    try:
        yangtuo.train(**options, output_dir=tmp_path / "out", max_steps=1, save_strategy="no", report=False)
        list(yangtuo.load(tmp_path / "out", max_new_tokens=2).stream(QUESTION))
        yangtuo.check(**options)
        assert library.get_verbosity() == logging.INFO
        assert library.is_progress_bar_enabled()
    finally:
        library.set_verbosity_warning()
    assert warnings.filters == filters
    assert logging.getLogger().handlers == root
    assert bare.handlers == []
    assert capfd.readouterr().out == ""


def test_what_is_said_goes_to_the_logger(options, bare, caplog):
    with caplog.at_level(logging.INFO, logger="yangtuo"):
        list(yangtuo.encode(**options))
    assert any("24" in record.getMessage() for record in caplog.records)


def test_warnings_are_seen_where_no_logging_is_set_up(bare, capsys, monkeypatch):
    """By Python's handler of last resort, which asks whether there is any handler; ours for notes is one."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with logs.noting():
        logging.getLogger("yangtuo.x").warning("look at this")
        logging.getLogger("yangtuo.x").info("not at this")
        assert logs.notes_so_far() == ["look at this"]
    assert capsys.readouterr().err == "look at this\n"
    assert "look at this" not in logs.notes_so_far()


def test_a_programs_own_handler_shows_them_once(bare, capsys, monkeypatch):
    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with logs.noting():
        logging.getLogger("yangtuo.x").warning("look at this")
    assert capsys.readouterr().err == "look at this\n"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError),
        (OSError(28, "No space left on device", "file"), WriteError),
        (RuntimeError("a bug"), RuntimeError),
        (OSError(2, "No such file", "file"), OSError),
    ],
)
def test_causes_outside_of_this_code_have_our_names(error, kind):
    from yangtuo.api.process import as_library

    with pytest.raises(kind) as caught, as_library(computes=False):
        raise error
    assert (caught.value is error) == (kind in (RuntimeError, OSError))
