import numpy as np
import pytest

from yangtuo.data.mixing import num_rows_of_epoch, parse, rows_of_epoch
from yangtuo.errors import UsageError

PATHS = ["data/law.json", "data/general.json", "other/general.json"]
SOURCES = np.array([0, 1, 0, 1, 1, 0, 1], dtype=np.int32)  # 3 rows of file 0, 4 of file 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("law.json:2", (2, 1, 1)),
        ("data/general.json:0.5", (1, 0.5, 1)),
        ("law.json:0,other/general.json:3", (0, 1, 3)),
        (" law.json:2.5 , data/general.json:1e-1, ", (2.5, 0.1, 1)),
        ("", (1, 1, 1)),
    ],
)
def test_weights(text, expected):
    assert parse(text, PATHS) == expected


def test_a_colon_in_a_name():
    assert parse("a:b.json:2", ["a:b.json"]) == (2,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("law.json", "'law.json': expected a file, a colon and a number from 0 up"),
        ("law.json:", "'law.json:': expected a file, a colon and a number from 0 up"),
        (":2", "':2': expected a file, a colon and a number from 0 up"),
        ("law.json:-1", "'law.json:-1': expected a file, a colon and a number from 0 up"),
        ("law.json:nan", "'law.json:nan': expected a file, a colon and a number from 0 up"),
        ("law.json:inf", "'law.json:inf': expected a file, a colon and a number from 0 up"),
        ("low.json:1", "'low.json': no training file has this name (files: law.json, general.json, general.json)"),
        ("general.json:1", "'general.json': several training files have this name; give paths"),
        ("law.json:1,data/law.json:2", "'data/law.json': named twice"),
        ("law.json:0,data/general.json:0,other/general.json:0", "every file has weight 0"),
    ],
)
def test_what_is_wrong_with_a_mix(text, problem):
    with pytest.raises(UsageError) as caught:
        parse(text, PATHS)
    assert f"--mix {text}" in str(caught.value)
    assert problem in str(caught.value)


def test_every_problem_is_named_at_once():
    with pytest.raises(UsageError) as caught:
        parse("low.json:1,law.json:x", PATHS)
    assert "2 problems" in str(caught.value)


def test_weights_of_1_are_the_rows_as_they_are():
    assert rows_of_epoch(SOURCES, (1, 1), 0, 0).tolist() == list(range(7))


def test_a_whole_weight_has_every_row_as_often():
    assert rows_of_epoch(SOURCES, (2, 0), 0, 0).tolist() == [0, 0, 2, 2, 5, 5]


def test_half_a_weight_has_half_of_the_rows_drawn_anew_each_epoch():
    drawn = {tuple(rows_of_epoch(SOURCES, (0, 0.5), epoch, 0).tolist()) for epoch in range(30)}
    assert len(drawn) == 6  # all pairs of four
    assert all(len(rows) == 2 and set(rows) < {1, 3, 4, 6} for rows in drawn)


def test_the_seed_and_the_epoch_decide():
    sources = np.zeros(100, dtype=np.int32)
    same = [rows_of_epoch(sources, (1.5,), 3, 7).tolist() for _ in range(2)]
    assert same[0] == same[1]
    assert same[0] != rows_of_epoch(sources, (1.5,), 4, 7).tolist()
    assert same[0] != rows_of_epoch(sources, (1.5,), 3, 8).tolist()


def test_files_are_drawn_apart():
    alike = np.repeat([0, 1], 100).astype(np.int32)
    rows = rows_of_epoch(alike, (0.5, 0.5), 0, 0)
    assert rows[rows < 100].tolist() != (rows[rows >= 100] - 100).tolist()


def test_how_many():
    assert num_rows_of_epoch(SOURCES, (2.5, 0.25)) == [8, 1]  # 1.5 is rounded to the even number
    assert num_rows_of_epoch(SOURCES, (1, 1, 1)) == [3, 4, 0]
    assert num_rows_of_epoch(SOURCES, (0.999, 0)) == [3, 0]
