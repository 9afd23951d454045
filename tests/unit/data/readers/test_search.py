"""Which files of a folder are read, and what is said of the others."""

import os
import tempfile
from pathlib import Path

import pytest

from yangtuo.data.readers import search
from yangtuo.errors import DataError

ROW = '{"instruction": "你好", "output": "你好！"}\n'


def write(path, content=ROW):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def finding_fault(places, tmp_path, **more):
    with pytest.raises(DataError) as caught:
        search.find_files(str(places), **more)
    return str(caught.value).replace(str(tmp_path), "DIR")


# ---- finding


def test_data_files_of_the_folder_itself_are_found_in_order(tmp_path):
    good = ["a.json", "b.JSONL", "c.jsonl.gz", "d.json.zst", "e.parquet", "f.csv", "g.ndjson", "h.csv.GZ"]
    for name in [*good[::-1], "notes.txt", "x.tar.gz", "y.gz", ".hidden.json", "sub.json/e.json"]:
        write(tmp_path / name)
    assert search.find_files(str(tmp_path)) == [tmp_path / name for name in good]


def test_sub_folders_are_read_when_asked_but_hidden_ones_are_not(tmp_path):
    for name in ("z.json", "a/b/c.json", "a/d.jsonl", ".ipynb_checkpoints/z-checkpoint.json", "a/.cache/x.json"):
        write(tmp_path / name)
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    found = search.find_files(str(tmp_path), recursive=True)
    assert found == [tmp_path / name for name in ("a/b/c.json", "a/d.jsonl", "z.json")]
    assert search.find_files(str(tmp_path)) == [tmp_path / "z.json"]


def test_a_folder_behind_a_link_is_read(tmp_path):
    write(tmp_path / "elsewhere" / "a.json")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert search.find_files(str(tmp_path / "data"), recursive=True) == [tmp_path / "data" / "linked" / "a.json"]


def test_files_and_folders_may_be_given_with_commas_and_each_file_counts_once(tmp_path):
    a, b = write(tmp_path / "a.txt"), write(tmp_path / "folder" / "b.json")
    assert search.find_files(f"{a}, {tmp_path}/folder ,{b},{a},") == [a, b]


def test_a_name_may_have_a_comma_in_it(tmp_path):
    path = write(tmp_path / "a,b.json")
    assert search.find_files(str(path)) == [path]


def test_more_names_than_one_name_may_be_long(tmp_path):
    paths = [write(tmp_path / f"{i:0>200}.json") for i in range(40)]
    assert search.find_files(",".join(map(str, paths))) == paths


def test_the_validation_file_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.json", "dev.json"):
        write(tmp_path / name)
    assert search.find_files(str(tmp_path), exclude=[Path("./dev.json")]) == [tmp_path / "a.json"]
    assert len(search.find_files(str(tmp_path), exclude=[Path("elsewhere/dev.json")])) == 2


EXPECTED = "expected .json, .jsonl, .ndjson, .parquet, .arrow, .csv, .tsv, .xlsx, also with .gz or .zst"


@pytest.mark.parametrize(
    ("names", "exclude", "message"),
    [
        ([], [], f"no data file in it (found: nothing); {EXPECTED}"),
        (["x.txt", "a.docx"], [], f"no data file in it (found: a.docx, x.txt); {EXPECTED}"),
        (["dev.json"], ["dev.json"], f"no data file in it besides the validation file (found: dev.json); {EXPECTED}"),
        (
            ["sub/a.json"],
            [],
            f"no data file in it (found: sub); {EXPECTED}; files in sub-folders are read with --include_subfolders",
        ),
    ],
)
def test_a_folder_without_data_says_what_is_in_it(tmp_path, names, exclude, message):
    for name in names:
        write(tmp_path / name)
    left_out = [tmp_path / name for name in exclude]
    assert finding_fault(tmp_path, tmp_path, exclude=left_out) == f"--dataset_dir DIR: {message}"


def test_sub_folders_without_data_are_not_offered_again(tmp_path):
    write(tmp_path / "sub" / "a.txt")
    assert "--include_subfolders" not in finding_fault(tmp_path, tmp_path, recursive=True)


def test_no_such_place_names_the_option(tmp_path, sentences):
    rest = "no such folder or file; give a folder with data files, or files"
    assert finding_fault(tmp_path / "none", tmp_path) == f"--dataset_dir DIR/none: {rest}"
    one = write(tmp_path / "a.json")
    assert finding_fault(f"{one},b.json", tmp_path, option="train_file") == f"--train_file b.json: {rest}"
    assert finding_fault("x" * 5_000, tmp_path).endswith(rest)
    assert finding_fault("x\0", tmp_path).endswith(rest)
    sentences(finding_fault(",", tmp_path), "--dataset_dir")


def test_a_pipe_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    said = "--dataset_dir DIR/pipe.json: neither a folder nor a plain file; write the data into a file"
    assert finding_fault(tmp_path / "pipe.json", tmp_path) == said


@pytest.fixture
def nobody():
    """The rights of a user who is not root, for whom every folder is open; and a folder that this user reaches."""
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        write(Path(name) / "locked" / "a.json")
        if is_root:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            if is_root:
                os.seteuid(0)
            (Path(name) / "locked").chmod(0o755)


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_folder_that_may_not_be_read(nobody, mode):
    if os.stat(nobody / "locked").st_uid == os.geteuid():
        (nobody / "locked").chmod(mode)
    else:  # made by root, whose rights are given back for a moment
        os.seteuid(0)
        (nobody / "locked").chmod(mode)
        os.seteuid(65534)
    assert "locked" in finding_fault(nobody / "locked", nobody)


@pytest.mark.parametrize("locked", ["", "sub"])
def test_a_folder_that_cannot_be_listed_is_named_also_below(tmp_path, monkeypatch, locked):
    write(tmp_path / "a.json")
    write(tmp_path / "sub" / "b.json")
    real = Path.iterdir

    def iterdir(self):
        if self == tmp_path / locked:
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    said = finding_fault(tmp_path, tmp_path, recursive=True)
    assert said == f"--dataset_dir {Path('DIR') / locked}: the folder cannot be read: Permission denied"


# ---- what is left out


def told(folder, **more):
    return [line.replace(str(folder), "DIR") for line in search.left_out(str(folder), **more)]


def test_a_folder_that_is_read_whole_needs_no_word(tmp_path):
    for name in ("a.json", "b.jsonl.gz", "c.csv", "README.md", "README", "LICENSE.txt", ".hidden.json", "load.py"):
        write(tmp_path / name)
    assert told(tmp_path) == []


def test_files_that_are_not_read_are_named(tmp_path):
    for name in ("a.jsonl", "b.txt", "c.jsonl.bz2", "d.jsonl.1", "e"):
        write(tmp_path / name)
    (tmp_path / "f.jsonl").symlink_to(tmp_path / "gone.jsonl")
    links, unknown = told(tmp_path)
    assert links == "DIR: not read: f.jsonl: links to files that are not there"
    assert unknown.startswith("DIR: not read: b.txt, c.jsonl.bz2, d.jsonl.1, e; files are known by .json, ")
    for i in range(20):
        write(tmp_path / f"x{i:02}.bak")
    assert told(tmp_path)[1].startswith("DIR: not read: b.txt, c.jsonl.bz2, d.jsonl.1, e, x00.bak, x01.bak")
    assert " and 16 more; " in told(tmp_path)[1]


def test_sub_folders_with_data_are_named_unless_they_are_read(tmp_path):
    write(tmp_path / "a.json")
    write(tmp_path / "more" / "deep" / "b.json")
    write(tmp_path / "pictures" / "c.png")
    assert told(tmp_path) == ["DIR: sub-folders not read: more; --include_subfolders reads them"]
    assert told(tmp_path, recursive=True) == []


@pytest.mark.parametrize("word", ["test", "dev", "valid", "val", "validation", "eval", "Test"])
def test_a_held_out_part_beside_train_is_not_trained_on(tmp_path, word):
    train = write(tmp_path / "train-00000-of-00002.jsonl")
    held = write(tmp_path / f"zh_{word}-00000-of-00001.jsonl")
    other = write(tmp_path / "latest.jsonl")  # the word as a part of another
    assert search.find_files(str(tmp_path)) == [other, train]
    assert told(tmp_path) == [
        f"DIR: not trained on, as their names say: {held.name}; evaluate on them with --validation_file, "
        "or name all files with --train_file"
    ]
    assert told(tmp_path, exclude=[held]) == []  # it is the validation file
    assert search.find_files(str(held), option="validation_file") == [held]
    assert search.find_files(str(tmp_path), option="train_file") == sorted([train, held, other])
    assert search.find_files(f"{train},{held}") == [train, held]


def test_without_a_train_part_all_are_trained_on(tmp_path):
    paths = [write(tmp_path / name) for name in ("eval_set.jsonl", "test.jsonl")]
    assert search.find_files(str(tmp_path)) == paths
    assert told(tmp_path) == []


def test_a_saved_dataset_dict_is_read_by_its_train_part(tmp_path):
    write(tmp_path / "dataset_dict.json", '{"splits": ["train", "test"]}')
    for part in ("train", "test"):
        for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
            write(tmp_path / part / name, "{}")
    assert search.find_files(str(tmp_path)) == [tmp_path / "train" / "data-00000-of-00001.arrow"]
    assert told(tmp_path) == [
        "DIR: not trained on, as their names say: test/data-00000-of-00001.arrow; evaluate on them with "
        "--validation_file, or name all files with --train_file"
    ]


def test_a_file_of_rows_may_be_called_state(tmp_path):
    write(tmp_path / "dataset_info.json")
    assert search.find_files(str(tmp_path)) == [tmp_path / "dataset_info.json"]
