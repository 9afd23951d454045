import json
from pathlib import Path

import pytest

from yangtuo import output
from yangtuo.config.settings import without_secrets
from yangtuo.engine import checkpoint
from yangtuo.errors import RunFolderError
from yangtuo.training import run_folder
from yangtuo.training.run_folder import Decision, Start

RECIPE = {"learning_rate": 1e-4, "data": [["a.json", "0123"]], "max_steps": 100}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def record(out, *, state="running", recipe=RECIPE, seed=42):
    out.mkdir(exist_ok=True)
    output.write_json(out / run_folder.RUN_FILE, {"state": state, "recipe": recipe, "seed": seed})


def save(out, step, *, mark=True):
    path = out / f"checkpoint-{step}"
    path.mkdir()
    (path / checkpoint.TENSORS).write_bytes(b"moments")
    (path / checkpoint.POSITION).write_text("{}")
    if mark:
        checkpoint.mark_complete(path)
    return path


def decide(out, *, recipe=RECIPE, overwrite=False, checkpoint_dir=None):
    return run_folder.start_of(out, recipe, overwrite=overwrite, checkpoint_dir=checkpoint_dir)


def refused(out, **options):
    before = contents(out)
    with pytest.raises(RunFolderError) as caught:
        decide(out, **options)
    assert contents(out) == before
    return str(caught.value)


def contents(place):
    return sorted(place.rglob("*")) if place.is_dir() else []


# ---- fresh


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_folder_or_an_empty_one(out, overwrite):
    assert decide(out, overwrite=overwrite) == Decision(Start.FRESH)
    assert not out.exists()
    out.mkdir()
    assert decide(out, overwrite=overwrite) == Decision(Start.FRESH)


def test_a_run_that_saved_nothing_begins_again(out):
    record(out)
    assert decide(out) == Decision(Start.FRESH)
    save(out, 5, mark=False)
    assert decide(out) == Decision(Start.FRESH)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_run_leaves_that_was_killed_before_it_said_what_it_is(out, overwrite):
    out.mkdir()
    (out / ".lock").touch()
    (out / ".run.json.writing").write_text('{"yangtuo": "0.')
    assert decide(out, overwrite=overwrite) == Decision(Start.FRESH)
    for name in ("data_audit.json", ".data_audit.json.writing", ".dropped_rows.jsonl.writing"):  # of `yangtuo check`
        (out / name).write_text("{")
        assert decide(out, overwrite=overwrite) == Decision(Start.FRESH)
    (out / ".thesis.tex.writing").write_text("mine")
    if overwrite:
        assert decide(out, overwrite=True) == Decision(Start.MOVE_ASIDE)
    else:
        assert "no run.json in it tells of a run" in refused(out)


# ---- the same run


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("checkpoint_dir", [None, "True", "true"])
def test_an_unfinished_run_resumes_from_its_last_whole_checkpoint(out, overwrite, checkpoint_dir):
    record(out, seed=7)
    save(out, 5)
    last = save(out, 10)
    save(out, 15, mark=False)
    assert decide(out, overwrite=overwrite, checkpoint_dir=checkpoint_dir) == Decision(Start.RESUME, last, 7)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_finished_run_is_not_repeated(out, overwrite):
    record(out, state="finished", seed=7)
    save(out, 5)
    (out / run_folder.ADAPTER_FOLDER).mkdir()
    assert decide(out, overwrite=overwrite) == Decision(Start.FINISHED, seed=7)


def test_a_finished_run_without_its_adapter_resumes(out):
    record(out, state="finished")
    saved = save(out, 5)
    assert decide(out) == Decision(Start.RESUME, saved, 42)


def test_a_checkpoint_may_be_chosen(out):
    record(out)
    first = save(out, 5)
    save(out, 10)
    assert decide(out, checkpoint_dir=str(first)) == Decision(Start.RESUME, first, 42)


@pytest.mark.parametrize("fault", ["absent", "no mark", "no optimizer"])
def test_a_chosen_checkpoint_has_to_be_whole(out, fault):
    record(out)
    save(out, 10)
    chosen = out / "checkpoint-5"
    if fault != "absent":
        save(out, 5, mark=False)
    if fault == "no optimizer":
        (chosen / checkpoint.TENSORS).rename(chosen / "adapter_model.safetensors")
        checkpoint.mark_complete(chosen)
    assert refused(out, checkpoint_dir=str(chosen)) == (
        f"--resume_from_checkpoint {chosen}: no complete checkpoint with its optimizer there"
    )


# ---- another run, or something else


def test_another_recipe_is_refused_with_what_differs(out):
    record(out, recipe={**RECIPE, "old": None, "gone": 1})
    title = (
        f"--output_dir {out} holds a run of another recipe; choose another folder, or add --overwrite_output_dir to "
        "have this one renamed"
    )
    changed = {**RECIPE, "learning_rate": 2e-4, "gone": 1}
    assert refused(out, recipe=changed) == f"{title}: learning_rate: 0.0001 there, 0.0002 here"
    assert refused(out, recipe={**RECIPE, "max_steps": 200, "data": [["龙.json", "0" * 80]]}).splitlines() == [
        f"{title} (3 problems):",
        f'  data: [["a.json", "0123"]] there, [["龙.json", "{"0" * 21}...{"0" * 31}"]] here',
        "  gone: 1 there, null here",
        "  max_steps: 100 there, 200 here",
    ]


def test_another_recipe_is_moved_aside_where_asked_for(out):
    record(out, state="finished")
    save(out, 5)
    assert decide(out, recipe={**RECIPE, "max_steps": 1}, overwrite=True) == Decision(Start.MOVE_ASIDE)


@pytest.mark.parametrize("run_file", [None, "", "{", "[]"])
def test_a_folder_of_something_else(out, run_file):
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    if run_file is not None:
        (out / run_folder.RUN_FILE).write_text(run_file)
    assert refused(out) == (
        f"--output_dir {out}: not empty, and no run.json in it tells of a run; choose another folder, or add "
        "--overwrite_output_dir to have this one renamed"
    )
    assert decide(out, overwrite=True) == Decision(Start.MOVE_ASIDE)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file(out, overwrite):
    out.write_text("mine")
    assert refused(out, overwrite=overwrite) == f"--output_dir {out}: that is a file"
    assert out.read_text() == "mine"


@pytest.mark.parametrize("inside", [".", "sub"])
def test_the_current_folder_is_not_renamed(out, inside, monkeypatch):
    (out / "sub").mkdir(parents=True)
    monkeypatch.chdir(out / inside)
    assert refused(out, overwrite=True) == (
        f"--output_dir {out}: the current folder lies in it, so it is not renamed; choose another"
    )


# ---- files


def test_moving_aside_deletes_nothing(out, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "20260102-030405")
    targets = []
    for text in ("first", "second", "third"):
        out.mkdir()
        (out / "adapter").write_text(text)
        targets.append(run_folder.move_aside(out))
        assert not out.exists()
    assert [target.name for target in targets] == [
        *("out.20260102-030405", "out.20260102-030405-2", "out.20260102-030405-3")
    ]
    assert [(target / "adapter").read_text() for target in targets] == ["first", "second", "third"]


def test_json_is_written_whole_and_readable(out):
    out.mkdir()
    output.write_json(out / run_folder.RUN_FILE, {"note": "羊驼", "loss": 1e-7})
    output.write_json(out / run_folder.RUN_FILE, {"note": "羊驼"})
    assert (out / run_folder.RUN_FILE).read_text(encoding="utf-8") == '{\n  "note": "羊驼"\n}\n'
    assert run_folder.read_run(out) == {"note": "羊驼"}
    assert [path.name for path in out.iterdir()] == ["run.json"]
    with pytest.raises(TypeError):
        output.write_json(out / run_folder.RUN_FILE, {"bad": object()})
    assert json.loads((out / run_folder.RUN_FILE).read_text(encoding="utf-8")) == {"note": "羊驼"}


@pytest.mark.parametrize("before", [None, "", '{"train_loss": 2.0, "epo'])
def test_metrics_are_joined_and_one_that_was_being_written_is_none(tmp_path, before):
    everything = tmp_path / "all_results.json"
    if before is not None:
        everything.write_text(before)
    run_folder.write_metrics(tmp_path, "train", {"train_loss": 2.5, "epoch": 1.0})
    run_folder.write_metrics(tmp_path, "eval", {"eval_loss": 2.25})
    assert json.loads((tmp_path / "train_results.json").read_text()) == {"epoch": 1.0, "train_loss": 2.5}
    assert json.loads((tmp_path / "eval_results.json").read_text()) == {"eval_loss": 2.25}
    assert json.loads(everything.read_text()) == {"epoch": 1.0, "eval_loss": 2.25, "train_loss": 2.5}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_checkpoint_of_another_folder(out, tmp_path):
    assert "a run goes on in its own folder" in refused(out, checkpoint_dir=str(tmp_path / "other" / "checkpoint-4"))


# ---- one run at a time


def test_a_folder_is_held_until_it_is_let_go(tmp_path):
    with run_folder.Lock(tmp_path) as lock:
        lock.take()
        lock.take()  # once more, after the folder was renamed and made anew
        with pytest.raises(RunFolderError, match="another process is training into it"):
            run_folder.Lock(tmp_path).take()
        output.write_json(tmp_path / run_folder.RUN_FILE, {"process": "process 7 on node3"})
        with pytest.raises(RunFolderError, match="process 7 on node3 is training into it"):
            run_folder.Lock(tmp_path).take()
        (tmp_path / run_folder.RUN_FILE).unlink()
        assert (
            run_folder.start_of(tmp_path, RECIPE, overwrite=False, checkpoint_dir=None).start is run_folder.Start.FRESH
        )
    with run_folder.Lock(tmp_path) as lock:
        lock.take()


def test_what_a_dead_process_has_left_holds_nothing(tmp_path):
    (tmp_path / ".lock").write_text("process 1 on elsewhere")
    with run_folder.Lock(tmp_path) as lock:
        lock.take()


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with run_folder.Lock(tmp_path / "out") as lock:
        lock.take()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made():
    with pytest.raises(RunFolderError, match="--output_dir /proc/none/x: cannot be written"):
        run_folder.make(Path("/proc/none/x"))


@pytest.mark.parametrize("words", [["--hub_token", "hf_secret"], ["--hub-token=hf_secret"]])
def test_a_key_for_the_hub_is_not_written(words):
    told = without_secrets(["yangtuo", "train", *words, "--max_steps", "3"])
    assert "hf_secret" not in " ".join(told)
    assert told[-2:] == ["--max_steps", "3"]
