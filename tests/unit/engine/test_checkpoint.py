import json
import os

import pytest

from yangtuo import output
from yangtuo.engine import checkpoint
from yangtuo.errors import CheckpointError


@pytest.fixture
def saved(tmp_path):
    """Makes a marked checkpoint of a step."""

    def make(step, *, optimizer=True, mark=True):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights" * 10)
        (folder / "trainer_state.json").write_text("{}")
        if optimizer:
            (folder / checkpoint.TENSORS).write_bytes(b"moments")
            (folder / checkpoint.POSITION).write_text("{}")
        if mark:
            checkpoint.mark_complete(folder)
        return folder

    return make


def test_whole_until_something_is_missing(saved):
    folder = saved(5, mark=False)
    assert not checkpoint.is_complete(folder)
    checkpoint.mark_complete(folder)
    assert checkpoint.is_complete(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("adapter_model.safetensors", "complete.json", "optimizer.safetensors"),
        *("trainer_state.json", "training_state.json"),
    ]


@pytest.mark.parametrize("content", [b"weights" * 9, b"weights" * 11, b"", None])
def test_a_file_of_another_size(saved, content):
    folder = saved(5)
    file = folder / "adapter_model.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    assert not checkpoint.is_complete(folder)


@pytest.mark.parametrize("mark", ["", "{", '{"files": {"adapter_model', "{}"])
def test_a_mark_that_says_nothing(saved, mark):
    folder = saved(5)
    (folder / checkpoint.MARK).write_text(mark)
    assert not checkpoint.is_complete(folder)


def test_no_folder(tmp_path):
    assert not checkpoint.is_complete(tmp_path / "checkpoint-5")
    assert not checkpoint.can_resume(tmp_path / "checkpoint-5")


def test_resuming_needs_the_optimizer(saved):
    assert checkpoint.can_resume(saved(5))
    assert not checkpoint.can_resume(saved(6, optimizer=False))


@pytest.mark.parametrize(
    ("name", "step"), [("checkpoint-12", 12), ("checkpoint-", -1), ("checkpoint-1.tmp", -1), ("best", -1)]
)
def test_the_step_is_in_the_name(tmp_path, name, step):
    assert checkpoint.step_of(tmp_path / name) == step


def test_the_latest_is_the_highest_step_that_is_whole(tmp_path, saved):
    assert checkpoint.latest_complete(tmp_path) is None
    two, ten = saved(2), saved(10)  # as texts, 10 comes before 2
    saved(20, mark=False)
    saved(30, optimizer=False)
    (tmp_path / "checkpoint-40").write_text("a file")
    ten.parent.joinpath("checkpoint-old").mkdir()
    assert checkpoint.latest_complete(tmp_path) == ten
    (ten / checkpoint.TENSORS).write_bytes(b"mom")
    assert checkpoint.latest_complete(tmp_path) == two


def test_marking_twice_and_files_in_sub_folders(saved):
    folder = saved(5)
    (folder / "global_step5").mkdir()
    (folder / "global_step5" / "shard.pt").write_bytes(b"moments" * 10)
    checkpoint.mark_complete(folder)
    assert checkpoint.is_complete(folder)
    (folder / "global_step5" / "shard.pt").write_bytes(b"moments")
    assert not checkpoint.is_complete(folder)


def test_a_mark_of_another_shape(saved):
    folder = saved(5)
    (folder / checkpoint.MARK).write_text("[]")
    assert not checkpoint.is_complete(folder)


# ---- appearing whole or not at all


def test_what_was_written_appears_with_its_mark_and_nothing_beside_it(tmp_path):
    target = tmp_path / "out" / "checkpoint-5"
    with checkpoint.written(target) as draft:
        (draft / "a").write_text("1")
        assert not target.exists()
        assert checkpoint.latest_complete(tmp_path / "out") is None
    assert checkpoint.is_complete(target)
    assert [path.name for path in target.parent.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("torn"), KeyboardInterrupt()])
def test_when_writing_fails_what_was_there_before_stays(tmp_path, error):
    target = tmp_path / "checkpoint-5"
    with checkpoint.written(target) as draft:
        (draft / "a").write_text("old")
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError

    def write_and_fail():
        with checkpoint.written(target) as draft:
            (draft / "a").write_text("new")
            raise error

    with pytest.raises(expected):
        write_and_fail()
    assert (target / "a").read_text() == "old"
    assert checkpoint.is_complete(target)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_a_written_one_replaces_the_former_whole(tmp_path):
    target = tmp_path / "best"
    for content in ("a", "b"):
        with checkpoint.written(target, marked=False) as draft:
            (draft / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["b"]


def test_what_a_killed_process_has_left_is_cleared_away(tmp_path):
    for name in (".checkpoint-5.writing", ".checkpoint-5.former"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "torn").write_text("")
    assert checkpoint.latest_complete(tmp_path) is None
    with checkpoint.written(tmp_path / "checkpoint-5"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (["draft"], None),
        (["target", "draft"], "target"),
        (["draft", "former"], "draft"),  # between the two renames: the new one was whole
        (["former"], "former"),  # it could not be renamed
        (["target", "former"], "target"),  # the former one was being removed
    ],
)
def test_what_a_killed_process_was_writing_is_ended_at_the_next_start(tmp_path, left, expected):
    names = {"target": "best", "draft": ".best.writing", "former": ".best.former"}
    (tmp_path / "sft_lora_model").mkdir()
    for name in left:
        (tmp_path / names[name]).mkdir()
        (tmp_path / names[name] / name).touch()
    output.recover(tmp_path)
    left_over = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left_over == {"sft_lora_model"} | ({"best", f"best/{expected}"} if expected else set())


def test_recovering_nothing(tmp_path):
    output.recover(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()


def test_evaluations_before_a_checkpoint(saved):
    folder = saved(5)
    history = [{"step": 0, "eval_loss": 3.0}, {"step": 5, "loss": 2.0}, {"step": 5, "eval_loss": float("nan")}]
    (folder / checkpoint.TRAINER_STATE).write_text(json.dumps({"log_history": history}))
    assert checkpoint.num_evaluations(folder) == 2


def test_files_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with checkpoint.written(tmp_path / "checkpoint-5") as draft:
        (draft / "a").write_text("1")
    names = [path.removeprefix(str(tmp_path)) for path in flushed]
    draft = "/.checkpoint-5.writing"
    assert sorted(names[:-1]) == sorted([f"{draft}/a", f"{draft}/{checkpoint.MARK}", draft])
    assert names[-1] == ""


def test_room(tmp_path):
    checkpoint.check_room(tmp_path / "not" / "yet", 1)
    with pytest.raises(CheckpointError, match=r"free on its disk, where a checkpoint of 9,313\.2 GiB"):
        checkpoint.check_room(tmp_path / "not" / "yet", 10**13)


# ---- pruning


def left(tmp_path):
    return sorted(checkpoint.step_of(path) for path in tmp_path.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("limit", "keep", "expected"),
    [
        (None, None, [2, 4, 6, 8]),
        (0, None, [2, 4, 6, 8]),
        (3, None, [4, 6, 8]),
        (1, None, [8]),
        (2, 2, [2, 8]),
        (2, 6, [6, 8]),
        (1, 2, [2, 8]),
        (9, 2, [2, 4, 6, 8]),
    ],
)
def test_pruning(tmp_path, saved, limit, keep, expected):
    for step in (2, 4, 6, 8):
        saved(step)
    best = tmp_path / f"checkpoint-{keep}" if keep else None
    checkpoint.prune(tmp_path, limit, newest=tmp_path / "checkpoint-8", best=best)
    assert left(tmp_path) == expected


def test_pruning_never_counts_on_one_that_is_not_whole(tmp_path, saved):
    saved(2)
    saved(4)
    saved(6, mark=False)
    checkpoint.prune(tmp_path, 1, newest=tmp_path / "checkpoint-4")
    assert left(tmp_path) == [4, 6]  # the last one whole, and what may be being written
    (tmp_path / "checkpoint-4" / checkpoint.MARK).unlink()
    checkpoint.prune(tmp_path, 1, newest=tmp_path / "checkpoint-4")
    assert left(tmp_path) == [4, 6]


def test_after_resuming_from_an_earlier_one_what_was_just_written_stays(tmp_path, saved):
    for step in (2, 4, 8):
        saved(step)
    checkpoint.prune(tmp_path, 1, newest=tmp_path / "checkpoint-4")
    assert left(tmp_path) == [4, 8]
