import json
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from yangtuo.arguments import Truncation
from yangtuo.data import store as module
from yangtuo.data.store import Policy, Store, _key
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError

POLICY = Policy(ALPACA_ZH, 384, Truncation.KEEP_ANSWER)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def files(tmp_path):
    return [tiny.write_rows(tmp_path / "a.json", tiny.rows(9)), tiny.write_rows(tmp_path / "b.json", tiny.rows(12)[9:])]


@pytest.fixture
def builds(monkeypatch):
    """How often rows were encoded."""
    real, calls = module.encode, []

    def encode(*args, **kwargs):
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "encode", encode)
    return calls


def same(a, b):
    columns = ("input_ids", "supervised", "offsets", "rows")
    return (
        all(np.array_equal(getattr(a.examples, name), getattr(b.examples, name)) for name in columns)
        and a.examples.sources == b.examples.sources
        and (a.counts, a.sources) == (b.counts, b.sources)
    )


@pytest.mark.parametrize("limit", [384, 120, 110])
def test_what_is_found_is_what_was_encoded(limit, tmp_path, files, tokenizer, builds):
    policy = replace(POLICY, max_seq_length=limit, truncation=Truncation.DROP if limit == 120 else Truncation.RIGHT)
    read, sources = module.records.read(files)
    examples, counts = module.encode(
        read, tokenizer, ALPACA_ZH, max_seq_length=limit, truncation=policy.truncation, num_threads=None
    )
    expected = module.Stored(examples, counts, sources)
    builds.clear()
    results = [Store(tmp_path / "store").encoded(files, tokenizer, policy) for _ in range(3)]
    assert len(builds) == 1
    assert all(same(result, expected) for result in results)
    assert isinstance(results[0].examples.input_ids, np.memmap)


def test_a_hit_is_said_with_its_date(tmp_path, files, tokenizer, monkeypatch):
    said = []
    monkeypatch.setattr(module.logger, "info", lambda text, *values: said.append(text % values))
    Store(tmp_path / "store").encoded(files, tokenizer, POLICY)
    assert said == []
    Store(tmp_path / "store").encoded(files, tokenizer, POLICY)
    assert said[0].startswith("data: rows as encoded on 20")


def changes(files, tokenizer, tmp_path):
    text = files[0].read_text()
    other = tmp_path / "other" / "a.json"
    other.parent.mkdir()
    other.write_text(text)
    longer = open_tokenizer(tiny.tiny_json_tokenizer(tmp_path / "json"))
    yield "the order", (files[::-1], tokenizer, POLICY)
    yield "a file less", (files[:1], tokenizer, POLICY)
    yield "another name", ([other, files[1]], tokenizer, POLICY)
    yield "the tokenizer", (files, longer, POLICY)
    yield "the length", (files, tokenizer, replace(POLICY, max_seq_length=383))
    yield "the truncation", (files, tokenizer, replace(POLICY, truncation=Truncation.DROP))
    yield "the template", (files, tokenizer, replace(POLICY, template=replace(ALPACA_ZH, after="\n")))
    files[0].write_text(text.replace("长", "短", 1))
    yield "one character", (files, tokenizer, POLICY)


def test_the_key_changes_when_any_input_does(files, tokenizer, tmp_path, monkeypatch):
    keys = {"itself": _key(files, tokenizer, POLICY)}
    assert _key(files, tokenizer, POLICY) == keys["itself"]
    keys |= {name: _key(*arguments) for name, arguments in changes(files, tokenizer, tmp_path)}
    monkeypatch.setattr(module, "ENCODER_VERSION", module.ENCODER_VERSION + 1)
    keys["the encoder"] = _key(files, tokenizer, POLICY)
    assert len(set(keys.values())) == len(keys) == 10


@pytest.mark.parametrize("fault", ["a column cut short", "no column", "no description", "torn description"])
def test_a_damaged_entry_is_made_again_and_that_is_said(fault, tmp_path, files, tokenizer, builds, monkeypatch):
    said = []
    monkeypatch.setattr(module.logger, "warning", lambda text, *values: said.append(text % values))
    store = Store(tmp_path / "store")
    first = store.encoded(files, tokenizer, POLICY)
    (entry,) = [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    name = "about.json" if "description" in fault else "input_ids.npy"
    content = (entry / name).read_bytes()
    (entry / name).unlink()
    if not fault.startswith("no "):
        (entry / name).write_bytes(content[:-9])
    assert same(store.encoded(files, tokenizer, POLICY), Store(tmp_path / "new").encoded(files, tokenizer, POLICY))
    assert len(builds) == 3
    assert len(said) == 1
    assert "damaged" in said[0]
    assert len(first.examples) == 12


def test_refreshing(tmp_path, files, tokenizer, builds):
    for _ in range(2):
        Store(tmp_path / "store", refresh=True).encoded(files, tokenizer, POLICY)
    assert len(builds) == 2


def test_a_folder_that_cannot_be_written(tmp_path, files, tokenizer, builds, monkeypatch):
    said = []
    monkeypatch.setattr(module.logger, "warning", lambda text, *values: said.append(text % values))
    (tmp_path / "store").write_text("a file")
    assert len(Store(tmp_path / "store" / "x").encoded(files, tokenizer, POLICY).examples) == 12
    assert "cannot be used" in said[0]


def test_errors_of_the_data_leave_nothing(tmp_path, files, tokenizer):
    files[0].write_text(json.dumps([{"instruction": 1}]))
    for _ in range(2):
        with pytest.raises(DataError, match="instruction"):
            Store(tmp_path / "store").encoded(files, tokenizer, POLICY)
    assert not [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    with pytest.raises(DataError, match="cannot be read"):
        Store(tmp_path / "store").encoded([tmp_path / "none.json"], tokenizer, POLICY)


def _build(folder, files, tokenizer_folder, results):
    real = module.encode

    def slow(*args, **kwargs):
        import time

        results.put("built")
        time.sleep(0.5)
        return real(*args, **kwargs)

    module.encode = slow
    stored = Store(folder).encoded(files, open_tokenizer(tokenizer_folder), POLICY)
    results.put(len(stored.examples))


def test_many_processes_build_once(tmp_path, files, tokenizer):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (tmp_path / "store", files, tokenizer.folder, results)
    processes = [context.Process(target=_build, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=30) for _ in range(5)]
    for process in processes:
        process.join(timeout=30)
    assert sorted(map(str, found)) == ["12", "12", "12", "12", "built"]
