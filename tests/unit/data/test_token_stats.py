"""Chinese characters, by Unicode's blocks."""

import pytest

from yangtuo.data.token_stats import num_chinese


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0),
        ("abc，。", 0),
        ("长城 is long", 2),
        ("㐀", 1),
        ("\U00020000", 1),
        ("〇", 1),
        ("カタカナ", 0),
        ("한국", 0),
        ("\ud800", 0),
    ],
)
def test_chinese_characters_are_counted(text, number):
    assert num_chinese(text) == number
