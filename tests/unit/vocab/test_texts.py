"""Texts for vocabularies out of rows of any layout."""

import json

from yangtuo.vocab.texts import texts_of


def lines(path, *rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_of_known_pairs_and_published_layouts_give_their_turns(tmp_path):
    pairs = lines(tmp_path / "a.jsonl", {"问题": "问", "回答": "答"})
    firefly = lines(tmp_path / "b.jsonl", {"conversation": [{"human": "一", "assistant": "1"}]})
    assert list(texts_of([pairs, firefly])) == ["问", "答", "一", "1"]


def test_a_text_alone_is_one_also_beside_what_says_nothing(tmp_path):
    rows = [{"text": "甲", "id": "1"}, {"text": "乙", "id": "2"}]
    assert list(texts_of([lines(tmp_path / "a.jsonl", *rows)])) == ["甲", "乙"]


def test_an_empty_answer_is_no_fault_here(tmp_path):
    rows = [{"instruction": "问", "output": ""}, {"instruction": "再问", "output": "答"}]
    assert list(texts_of([lines(tmp_path / "a.jsonl", *rows)])) == ["问", "再问", "答"]
