"""The page as HTML: what stands in it, in both languages, and what may not."""

import json
import logging
import math
import re

import pytest

from tests.html_pages import Page
from tests.run_folders import (
    EVENT,
    NOTES,
    NOTES_ZH,
    audit,
    evaluations,
    proof,
    record,
    results,
    samples,
    steps,
    write_run,
)
from yangtuo.errors import UsageError, WriteError
from yangtuo.report import charts, page
from yangtuo.report.facts import read_run
from yangtuo.report.series import Series

EVIL = '</script><img src=x onerror="alert(1)">'


def made(*folders):
    text = page.page_of([read_run(folder) for folder in folders])
    found = Page(text)
    assert found.open == []
    assert found.wrong == []
    return found, text


def data_of(found):
    return json.loads(found.scripts[0])


def test_a_whole_run_in_both_languages(tmp_path):
    found, _ = made(write_run(tmp_path / "out", evaluated=results()))
    assert found.all("section", id="verdict") == [
        {"class": "verdict good", "id": "verdict", "data-verdict": "verdict.better"}
    ]
    english, chinese = found.text("en"), found.text("zh")
    for told in (
        "Finished, proven, and better than the base",
        "28 tensors (40.4 KiB) read again from the disk",
        "The loss of these 16 rows went from 4.0000 to 1.2500",
        "Loss spike step 7",
        "100 of 101 rows are used",
        "5,000 tokens, of which 40% carry the loss",
        "2 prompts shortened to fit",
        "3 dropped",
        "longer than --max_seq_length",
        "3 were given, 2 have their default",
        "yangtuo train 'run file.yaml' --learning_rate 1e-4",
        "2.1 1.9 … 2.3 −1.1 [−1.3, −0.9]",
        "yangtuo chat out/sft_lora_model",
        "2 GiB / 2 GiB +0%",
        "30 s / 25 s +20%",
    ):
        assert told in english
    for told in (
        "训练完成，通过校验，并且优于基座模型",
        "40 条数据上的损失下降了。",
        "损失突增",
        "第 7 步",
        "读入 101 条，使用 100 条",
        "命令行",
        "配置文件",
    ):
        assert told in chinese
        assert told not in english
    for told, told_zh in ((NOTES[0], NOTES_ZH[0]), (EVENT["text"], EVENT["text_zh"])):
        assert told in english
        assert told_zh in chinese
        assert told not in chinese
    for text in (english, chinese):
        assert "长城很长。" in text
        assert "the loss fell by 1.1" in text  # of which this file has no Chinese
        assert "我是羊驼。" in text


def test_options_say_where_they_come_from(tmp_path):
    found, _ = made(write_run(tmp_path / "out"))
    assert "--learning_rate 0.0001 command line" in found.text()
    assert "--max_steps 60 configuration file" in found.text()
    assert "Options that have their default (2)" in found.text()


def test_the_curves_are_in_it_twice(tmp_path):
    """For uPlot, and drawn for browsers without scripts."""
    found, _ = made(write_run(tmp_path / "out"))
    names = ["loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "memory"]
    assert [chart["name"] for chart in data_of(found)["charts"]] == names
    assert len(found.all("figure", class_="chart")) == 6
    assert len([one for one in found.all("path") if "line" in one.get("class", "").split()]) == 7  # loss has two
    loss = data_of(found)["charts"][0]
    assert loss["marks"] == [[7, "loss_spike"]]
    each = loss["curves"][0]
    assert each["x"] == list(range(1, 61))
    assert each["y"][0] == pytest.approx(steps(1)[0]["loss"], rel=1e-4)
    memory = data_of(found)["charts"][-1]["curves"][0]
    assert memory["y"] == [2.0] * 60  # GiB


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    found, text = made(write_run(tmp_path / "out"))
    for _, has in found.elements:
        assert not has.keys() & {"src", "href", "srcset", "action"}
    assert not re.search(r"@import|url\(", text.split("</style>")[0])
    policy = found.all("meta", http_equiv="Content-Security-Policy")[0]["content"]
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("number", [5_000, 50_000])
def test_a_long_run_stays_small_and_keeps_its_spikes(number, tmp_path):
    spikes = {1234, 3777, 4999}
    log = [*steps(number, spikes=spikes), *evaluations(number, 50)]
    found, text = made(write_run(tmp_path / "out", log=log))
    assert len(text.encode()) < 400_000
    each = data_of(found)["charts"][0]["curves"][0]
    assert {x for x, y in zip(each["x"], each["y"], strict=True) if y == 50.0} == spikes
    assert (each["x"][0], each["x"][-1]) == (1, number)


def test_eight_long_runs_stay_small(tmp_path):
    log = [*steps(5_000), *evaluations(5_000, 50)]
    _, text = made(*(write_run(tmp_path / f"run{i}", log=log) for i in range(8)))
    assert len(text.encode()) < 400_000


def test_everything_is_escaped(tmp_path):
    said = {name: [EVIL] for name in ("notes", "notes_zh", "plan", "plan_zh")}
    run = record(**said, command=["yangtuo", EVIL], versions={EVIL: EVIL}, process=EVIL, began=EVIL)
    run["arguments"]["model_name_or_path"] = {"value": EVIL, "from": EVIL}
    run["arguments"][EVIL] = {"value": [EVIL], "from": "command line"}
    run["next_commands"] = [f"to {EVIL}: yangtuo {EVIL}"]
    run["memory_plan"]["parts"][EVIL] = 2**20
    data = audit(rows_dropped={EVIL: 3}, special_texts={EVIL: 1}, files=[{"path": EVIL, "data_format": EVIL}])
    evil = results(models=[{"name": EVIL}], samples=[{"prompt": EVIL, "reference": EVIL, "answers": {EVIL: EVIL}}])
    evil["measures"][0] |= {"name": EVIL, "unit": EVIL, "values": {EVIL: 1.0}}
    evil["verdict"] |= {"outcome": EVIL, "text": EVIL, "rules": [{"name": EVIL, "passed": None, "text": EVIL}]}
    event = {"step": 3, "event": EVIL, "text": EVIL, "text_zh": EVIL}
    log = [*steps(60), event, samples(60, EVIL, prompt=EVIL, base=EVIL)]
    folder = tmp_path / "</script><img onerror=x>".replace("/", "∕")
    changes = {"run": run, "log": log, "data": data, "evaluated": evil, "proven": proof(passed=False, problems=[EVIL])}
    write_run(folder, **changes)
    for folders in ((folder,), (folder, write_run(tmp_path / "b", **changes))):
        found, text = made(*folders)
        assert found.all("img") == []
        assert len(found.scripts) == 3
        assert "onerror=" not in re.sub(r"&[#\w]+;|[^<]*", "", text)
        assert EVIL not in text
        assert EVIL in found.text()  # it is shown, as text
        json.loads(found.scripts[0])


def test_an_unescaped_twin_is_found():
    """The negative control of the test above."""
    assert Page(f"<p>{EVIL}</p>").all("img")


def test_what_html_cannot_hold_is_replaced(tmp_path):
    found, text = made(write_run(tmp_path / "out", log=[samples(5, "a\0b\x1bc\u202ed\ud800e 👨‍👩‍👧\nf")]))
    assert "a\ufffdb\ufffdc\ufffdd\ufffde 👨‍👩‍👧" in found.text()
    text.encode("utf-8")


@pytest.mark.parametrize("name", ["run.json", "log.jsonl", "proof.json", "data_audit.json", "evaluation/results.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", None], ids=["empty", "cut", "list", "nothing", "absent"])
def test_a_broken_folder_gives_a_page(name, content, tmp_path):
    folder = write_run(tmp_path / "out", evaluated=results())
    (folder / name).write_bytes(content or b"")
    if content is None:
        (folder / name).unlink()
    found, _ = made(folder)
    told = found.text()
    is_expected = "results" not in name  # an evaluation is not
    is_whole = content == b"{}" or (content == b"" and name == "log.jsonl")
    is_missing = not is_whole and (content is not None or is_expected)
    assert ("What is missing" in told) == is_missing
    assert not is_missing or name in told
    made(folder, write_run(tmp_path / "whole"))


def test_a_run_that_was_killed(tmp_path):
    folder = write_run(tmp_path / "out", run=record(state="running"), proven=False, log=steps(31))
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 32, "lo')
    found, _ = made(folder)
    assert "Not finished: 31 of 60 steps" in found.text()
    assert "尚未完成：60 步中的第 31 步" in found.text("zh")
    assert "the last line of log.jsonl is not whole" in found.text()
    assert "go on from the last checkpoint yangtuo train" in found.text()
    assert "merge" not in found.text().split("What next")[1]


def test_a_failed_proof_is_what_is_seen_first(tmp_path):
    wrong = "the run made the model worse"
    found, _ = made(write_run(tmp_path / "out", proven=proof(passed=False, problems=[wrong]), evaluated=results()))
    told = found.text()
    assert told.index("The proof failed") < told.index(wrong) < told.index("Curves")
    assert "What next" not in told


def test_values_that_are_no_numbers(tmp_path):
    log = [{"step": n, "loss": math.nan if n == 5 else 1.0 * n, "grad_norm": math.inf} for n in range(1, 10)]
    found, text = made(write_run(tmp_path / "out", log=log))
    (chart,) = data_of(found)["charts"]  # no finite gradient norm, no chart
    assert chart["curves"][0]["y"][3:6] == [4.0, None, 6.0]
    assert not re.search(r"NaN|Infinity", found.scripts[0])
    assert "nan" not in found.text().split()
    assert text


def test_several_runs(tmp_path):
    other = record(arguments={**record()["arguments"], "lora_rank": {"value": 16, "from": "command line"}})
    first = write_run(tmp_path / "a", evaluated=results())
    log = [*steps(40, seed=1), *evaluations(40)]
    second = write_run(tmp_path / "b", run=other, proven=proof(passed=False), log=log)
    found, _ = made(first, second)
    assert [one["data-verdict"] for one in found.all("td") if "data-verdict" in one] == [
        "verdict.better",
        "verdict.proof_failed",
    ]
    told = found.text()
    assert "2 runs side by side" in told
    assert "--lora_rank 8 default 16 command line" in told
    assert "--learning_rate" not in told
    loss = data_of(found)["charts"][0]["curves"]
    labels = [(curve["run"], curve["label"]["zh"]) for curve in loss]
    assert labels == [
        (0, "a, 每步"),
        (0, "a"),
        (1, "b, 每步"),
        (1, "b"),
    ]
    assert len(loss[-1]["x"]) == 40
    assert "cannot be compared" not in told


def test_runs_with_other_validation_rows_are_told(tmp_path):
    data = [{**audit(), "validation": audit(rows_kept=number)["train"]} for number in (9, 10)]
    found, _ = made(*(write_run(tmp_path / f"{i}", data=one) for i, one in enumerate(data)))
    assert "did not evaluate the same rows" in found.text()


def test_the_file_is_written_whole_and_over_its_own(tmp_path):
    folder, path = write_run(tmp_path / "out"), tmp_path / "page.html"
    size = page.write([folder], path)
    assert path.stat().st_size == size
    assert page.write([folder], path) == size
    path.write_text("my notes")
    with pytest.raises(UsageError, match=f"{path}.*another name"):
        page.write([folder], path)
    assert path.read_text() == "my notes"
    with pytest.raises(WriteError):
        page.write([folder], tmp_path / "gone" / "page.html")


def test_too_many_runs(tmp_path):
    with pytest.raises(UsageError, match="9 runs: at most 8"):
        page.write([tmp_path] * 9, tmp_path / "page.html")


def test_at_the_end_of_a_run_a_failure_is_a_warning(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("yangtuo"), "propagate", True)
    folder = write_run(tmp_path / "out")
    page.write_at_end(folder)
    assert (folder / "report.html").stat().st_size > 10_000
    monkeypatch.setattr(page, "page_of", lambda runs: 1 / 0)
    page.write_at_end(folder)
    (warning,) = {one.getMessage() for one in caplog.records if one.levelno == logging.WARNING}
    assert "division by zero; yangtuo report" in warning


def test_a_chart_needs_two_values():
    log = read_log_of(eval_loss=Series((1.0,), (2.0,)), loss=Series((1.0, 2.0), (2.0, None)))
    assert charts.charts_of([log], ["a"]) == []


def read_log_of(**curves):
    from yangtuo.report.run_log import log_of

    log = log_of([])
    return type(log)({**log.curves, **curves})
