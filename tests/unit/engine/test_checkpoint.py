import pytest

from yangtuo.engine import checkpoint


@pytest.fixture
def saved(tmp_path):
    """Makes a marked checkpoint of a step."""

    def make(step, *, optimizer=True, mark=True):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights" * 10)
        (folder / "trainer_state.json").write_text("{}")
        if optimizer:
            (folder / "optimizer.pt").write_bytes(b"moments")
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
        *("adapter_model.safetensors", "complete.json", "optimizer.pt", "trainer_state.json")
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
    deepspeed = saved(7, optimizer=False)
    (deepspeed / "latest").write_text("global_step7")
    assert checkpoint.can_resume(deepspeed)


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
    (ten / "optimizer.pt").write_bytes(b"mom")
    assert checkpoint.latest_complete(tmp_path) == two


def test_marking_twice_and_files_in_sub_folders(saved):
    """DeepSpeed keeps its shards in a folder of their own."""
    folder = saved(5)
    (folder / "global_step5").mkdir()
    (folder / "global_step5" / "shard.pt").write_bytes(b"moments" * 10)
    checkpoint.mark_complete(folder)
    assert checkpoint.is_complete(folder)
    (folder / "global_step5" / "shard.pt").write_bytes(b"moments")
    assert not checkpoint.is_complete(folder)


def test_the_mark_is_taken_away_before_writing_again(saved):
    folder = saved(5)
    checkpoint.mark_incomplete(folder)
    checkpoint.mark_incomplete(folder)
    assert not checkpoint.is_complete(folder)


def test_a_mark_of_another_shape(saved):
    folder = saved(5)
    (folder / checkpoint.MARK).write_text("[]")
    assert not checkpoint.is_complete(folder)


def test_how_steps_were_cut_is_kept(tmp_path):
    assert checkpoint.read_max_cells(tmp_path) is None
    checkpoint.write_max_cells(tmp_path, 600)
    assert checkpoint.read_max_cells(tmp_path) == 600
