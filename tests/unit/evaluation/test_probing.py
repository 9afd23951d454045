import pytest

from tests import tiny
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.evaluation import probing
from yangtuo.evaluation.probe_items import CheckedItem, ChoiceItem, Passage, bundled_items
from yangtuo.evaluation.records import Records
from yangtuo.evaluation.tasks import AnswerTask


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Two questions, two instructions and two passages of the set that comes along."""
    tokenizer = open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("tokenizer")))
    items = bundled_items()
    chosen = [
        next(one for one in items if isinstance(one, kind) and one.language == language)
        for kind in (ChoiceItem, CheckedItem, Passage)
        for language in ("zh", "en")
    ]
    return probing.probe(tokenizer, ALPACA_ZH, chosen)


def records_of(path, asked, right, nll=2.0):
    """Of a model that knows the questions with these ids, and answers instructions with nothing."""
    records = Records(path, {})
    for task in asked.tasks:
        entries = []
        for key in task.keys:
            entry = {"key": key, "nll": nll, "tokens": 4, "answer": "", "ended": True}
            item = next((one for one in asked.choices if key.startswith(f"{one.id}/")), None)
            if item:
                is_answer = key == f"{item.id}/{item.answer}"
                entry["nll"] = 1.0 if is_answer == (item.id in right) else 3.0
            entries.append(entry)
        records.add(task.identity, entries)
    return records


def test_what_was_known_lost_and_gained(asked, tmp_path):
    zh, en = (item.id for item in asked.choices)
    records = {
        "base": records_of(tmp_path / "b", asked, {zh}),
        "other": records_of(tmp_path / "o", asked, {zh, en}),
        "tuned": records_of(tmp_path / "t", asked, {en}, nll=1.0),
    }
    assert probing.passed(asked, records["base"])[zh]
    assert not probing.passed(asked, records["base"])[en]
    assert not any(probing.passed(asked, records["base"])[item.id] for item in asked.checked)
    models = dict.fromkeys(records, asked)
    assert probing.changed(models, records) == {"lost": [zh], "gained": [en]}
    found = {one.name: one for one in probing.compare(models, records)}
    values = {name: [one.value for one in measure.estimates.values()] for name, measure in found.items()}
    assert values["probe/accuracy"] == [0.25, 0.5, 0.25]
    assert values["probe/zh/accuracy"] == [0.5, 0.5, 0.0]
    assert values["probe/en/accuracy"] == [0.0, 0.5, 0.5]
    assert values["probe/loss"] == [0.5, 0.5, 0.25]
    assert found["probe/zh/loss"].n == 1
    names = [name.split("/")[1] for name in found if name.count("/") == 2 and not name.endswith("loss")]
    assert names == sorted(names, reverse=True)  # all of one language, then all of the other


def test_an_answer_that_repeats_itself_is_not_right(asked, tmp_path, monkeypatch):
    records = records_of(tmp_path / "b", asked, set())
    monkeypatch.setattr(probing, "passes", lambda check, answer: True)
    assert all(probing.passed(asked, records)[item.id] for item in asked.checked)
    task = next(task for task in asked.tasks if isinstance(task, AnswerTask))
    records.add(task.identity, [{"key": key, "answer": "山高" * 60, "ended": False} for key in task.keys])
    assert not any(probing.passed(asked, records)[item.id] for item in asked.checked)


def test_options_that_are_equally_likely_are_not_right(asked, tmp_path):
    records = records_of(tmp_path / "b", asked, {item.id for item in asked.choices})
    item = asked.choices[0]
    task = next(task for task in asked.tasks if task.name == "probe" and not isinstance(task, AnswerTask))
    entries = [{"key": f"{item.id}/{n}", "nll": 1.0, "tokens": 2} for n in range(len(item.options))]
    records.add(task.identity, entries)
    assert not probing.passed(asked, records)[item.id]
