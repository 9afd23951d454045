"""Files that appear whole or not at all."""

import contextlib
import errno
import json
import os
import resource
import stat

import pytest

from yangtuo import output
from yangtuo.errors import UsageError, WriteError

SURROGATE = "\udcca\udcfd"


@contextlib.contextmanager
def few_bytes():
    """Files of at most 64 bytes, as on a disk that is full; for no longer than a call, since pytest writes too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(path, text, mode="w"):
    with output.whole_file(path, mode) as file:
        file.write(text)


def test_a_file_is_the_old_one_until_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with output.whole_file(path) as file:
        file.write("新")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "新".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(WriteError) as caught, few_bytes():
        write(path, "x" * 100)
    assert str(caught.value) == f"{path}: cannot be written: {os.strerror(errno.EFBIG)}"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_any_other_error_in_between_leaves_it_too(tmp_path):
    with pytest.raises(TypeError):
        write(tmp_path / "a.txt", 5)
    assert os.listdir(tmp_path) == []


def test_a_pipe_is_written_and_stays_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe", "through")
    assert os.read(reading, 100) == b"through"
    os.close(reading)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.txt").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "there" / "a.txt")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "a.txt").read_text() == "new"


def test_json_of_a_name_that_is_no_text_reads_as_the_same_name(tmp_path):
    write(tmp_path / "a.json", json.dumps({"名": SURROGATE}, ensure_ascii=False))
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text == '{"名": "\\udcca\\udcfd"}'
    assert json.loads(text) == {"名": SURROGATE}


def test_bytes(tmp_path):
    write(tmp_path / "a.bin", b"\xff\r\n", "wb")
    assert (tmp_path / "a.bin").read_bytes() == b"\xff\r\n"


def test_places_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for path, said in (
        (tmp_path, "a folder; give the name of a file"),
        (tmp_path / "none" / "a", f"No such file or directory; make the folder {tmp_path / 'none'} first"),
        (tmp_path / "file" / "a", f"No such file or directory; make the folder {tmp_path / 'file'} first"),
    ):
        with pytest.raises(UsageError) as caught:
            output.check_place(path, "out")
        assert str(caught.value) == f"--out {path}: {said}"
    output.check_place(tmp_path / "new", "out")
    output.check_place(tmp_path / "file", "out")


def test_reasons():
    assert output.reason(OSError(errno.ENOSPC, "No space left on device", "f")) == "No space left on device"
    told = output.reason(OSError("1000 requested and 10 written"))
    assert told == "only 10 of 1000 values could be written; is the disk full?"
    assert output.reason(RuntimeError("a\n  b")) == "a b"
