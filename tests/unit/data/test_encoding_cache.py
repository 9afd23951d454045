import dataclasses
import json
import multiprocessing
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from tests import tiny
from yangtuo.config.choices import BadRows, DataFormat, History, TrainTurns, Truncation
from yangtuo.data import cache_build
from yangtuo.data import encoding_cache as module
from yangtuo.data.encoding import EncodingOptions, count_reasons, encode
from yangtuo.data.encoding_cache import EncodingCache, key_of
from yangtuo.data.readers import reader as reading_module
from yangtuo.data.readers.columns import parse as parse_columns
from yangtuo.data.readers.reader import ReadOptions
from yangtuo.data.templates import ALPACA_ZH
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError

POLICY = EncodingOptions(ALPACA_ZH, 384, Truncation.KEEP_ANSWER)
READING = ReadOptions()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return open_tokenizer(tiny.tiny_sentencepiece(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def files(tmp_path):
    return [tiny.write_rows(tmp_path / "a.json", tiny.rows(9)), tiny.write_rows(tmp_path / "b.json", tiny.rows(12)[9:])]


@pytest.fixture
def builds(monkeypatch):
    """How often rows were encoded."""
    real, calls = module.build, []

    def build(*args):
        calls.append(1)
        real(*args)

    monkeypatch.setattr(module, "build", build)
    return calls


def stored_in(folder, files, tokenizer, options=POLICY, reading=READING, **how):
    return EncodingCache(folder, **how).encoded(files, tokenizer, options, reading)


def same(a, b):
    columns = ("input_ids", "supervised", "begins", "ends", "trained", "source_numbers", "rows", "outcomes", "hashes")
    return (
        all(np.array_equal(getattr(a.examples, name), getattr(b.examples, name)) for name in columns)
        and a.examples.paths == b.examples.paths
        and np.array_equal(a.examples.weights, b.examples.weights)
        and (a.sources, a.dropped, a.num_bad, a.reasons, a.special)
        == (b.sources, b.dropped, b.num_bad, b.reasons, b.special)
    )


def in_memory(files, tokenizer, options):
    read, sources = reading_module.read(files)
    examples, dropped = encode(read, tokenizer, options)
    return module.EncodedFiles(examples, sources, dropped, reasons=count_reasons(dropped))


@pytest.mark.parametrize("limit", [384, 120, 110])
def test_what_is_found_is_what_was_encoded(limit, tmp_path, files, tokenizer, builds):
    options = replace(POLICY, max_seq_length=limit, truncation=Truncation.DROP if limit == 120 else Truncation.RIGHT)
    results = [stored_in(tmp_path / "store", files, tokenizer, options) for _ in range(3)]
    assert len(builds) == 1
    assert all(same(result, in_memory(files, tokenizer, options)) for result in results)
    assert isinstance(results[0].examples.input_ids, np.memmap)


def test_a_hit_is_said_with_its_date(tmp_path, files, tokenizer, monkeypatch):
    said = []
    monkeypatch.setattr(module.logger, "info", lambda text, *values: said.append(text % values))
    stored_in(tmp_path / "store", files, tokenizer)
    assert said == []
    stored_in(tmp_path / "store", files, tokenizer)
    assert said[0].startswith("data: a.json, b.json as encoded on 20")


def test_files_of_the_same_bytes_elsewhere_are_a_hit_with_their_own_names(tmp_path, files, tokenizer, builds):
    stored_in(tmp_path / "store", files, tokenizer)
    moved = [path.rename(tmp_path / f"moved.{path.name}") for path in files]
    found = stored_in(tmp_path / "store", moved, tokenizer)
    assert len(builds) == 1
    assert found.examples.paths == tuple(map(str, moved)) == tuple(source.path for source in found.sources)
    assert found.examples.where(9) == f"{moved[1]} row 0"


def test_names_that_differ_behind_the_first_dot_only_are_two_entries(tmp_path, tokenizer):
    one = tiny.write_rows(tmp_path / "law.train.json", tiny.rows(2))
    other = tiny.write_rows(tmp_path / "law.dev.json", tiny.rows(3))
    assert [len(stored_in(tmp_path / "store", [path], tokenizer).examples) for path in (one, other)] == [2, 3]


def changes(files, tokenizer, tmp_path):
    text = files[0].read_text()
    longer = open_tokenizer(tiny.tiny_json_tokenizer(tmp_path / "json"))
    spelled = shutil.copytree(tokenizer.folder, tmp_path / "spelled")
    (spelled / "added_tokens.json").write_text('{"[PAD]": 480}')
    yield "the order", (files[::-1], tokenizer, POLICY, READING)
    yield "a file less", (files[:1], tokenizer, POLICY, READING)
    yield "the tokenizer", (files, longer, POLICY, READING)
    yield "a token more", (files, open_tokenizer(spelled), POLICY, READING)
    yield "the length", (files, tokenizer, replace(POLICY, max_seq_length=383), READING)
    yield "the truncation", (files, tokenizer, replace(POLICY, truncation=Truncation.DROP), READING)
    yield "special tokens", (files, tokenizer, replace(POLICY, parse_special_tokens=True), READING)
    for name in ("after_user", "opening", "between", "default_system"):
        changed = replace(ALPACA_ZH, **{name: getattr(ALPACA_ZH, name) + " "})
        yield f"the template's {name}", (files, tokenizer, replace(POLICY, template=changed), READING)
    none = replace(ALPACA_ZH, default_system=None)
    yield "no default system prompt", (files, tokenizer, replace(POLICY, template=none), READING)
    yield "an empty one", (files, tokenizer, replace(POLICY, template=replace(none, default_system="")), READING)
    yield "the end of answers", (files, tokenizer, replace(POLICY, template=replace(ALPACA_ZH, end="</s>")), READING)
    yield "the format", (files, tokenizer, POLICY, replace(READING, data_format=DataFormat.ALPACA))
    yield "bad rows", (files, tokenizer, POLICY, replace(READING, bad_rows=BadRows.DROP))
    yield "the number of rows", (files, tokenizer, POLICY, replace(READING, max_rows=5))
    yield "the turns", (files, tokenizer, POLICY, replace(READING, train_turns=TrainTurns.LAST))
    yield "the history", (files, tokenizer, replace(POLICY, history=History.ONE_EXAMPLE), READING)
    columns = parse_columns('{"instruction": "instruction", "output": "output"}')
    yield "the columns", (files, tokenizer, POLICY, replace(READING, columns=columns))
    yield "empty answers", (files, tokenizer, POLICY, replace(READING, allow_empty_answers=True))
    files[0].write_text(text.replace("长", "短", 1))
    yield "one character", (files, tokenizer, POLICY, READING)


def test_the_key_changes_when_any_input_does(files, tokenizer, tmp_path, monkeypatch):
    keys = {"itself": key_of(files, tokenizer, POLICY, READING)}
    assert key_of(files, tokenizer, POLICY, READING) == keys["itself"]
    keys |= {name: key_of(*arguments) for name, arguments in changes(files, tokenizer, tmp_path)}
    monkeypatch.setattr(module, "ENCODER_VERSION", module.ENCODER_VERSION + 1)
    keys["the encoder"] = key_of(files, tokenizer, POLICY, READING)
    assert len(set(keys.values())) == len(keys) == 24


@pytest.mark.parametrize("field", [*(spec.name for spec in dataclasses.fields(EncodingOptions)), *vars(READING)])
def test_no_setting_is_forgotten_in_the_key(field, files, tokenizer, tmp_path):
    changed = [arguments[2:] for _, arguments in changes(files, tokenizer, tmp_path)]
    values = [getattr(part, field, None) for pair in changed for part in pair if hasattr(part, field)]
    assert len(set(map(repr, values))) > 1  # a new one needs a line in `changes`


@pytest.mark.parametrize(
    "fault", ["a column cut short", "a byte changed", "no column", "no description", "torn description"]
)
def test_a_damaged_entry_is_made_again_and_that_is_said(fault, tmp_path, files, tokenizer, builds, monkeypatch):
    said = []
    monkeypatch.setattr(module.logger, "warning", lambda text, *values: said.append(text % values))
    first = stored_in(tmp_path / "store", files, tokenizer)
    (entry,) = [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    name = "about.json" if "description" in fault else "input_ids"
    content = (entry / name).read_bytes()
    (entry / name).unlink()
    if fault == "a byte changed":
        (entry / name).write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif not fault.startswith("no "):
        (entry / name).write_bytes(content[:-9])
    again = stored_in(tmp_path / "store", files, tokenizer)
    assert same(again, stored_in(tmp_path / "new", files, tokenizer))
    assert len(builds) == 3
    assert len(said) == 1
    assert "damaged" in said[0]
    assert len(first.examples) == 12


def test_large_columns_are_checked_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_WHOLLY_CHECKED_BYTES", 1 << 18)
    (tmp_path / "column").write_bytes(bytes(1 << 20))
    before = module._check_of(tmp_path / "column")
    for place in (0, 1 << 19, (1 << 20) - 1):
        (tmp_path / "column").write_bytes(bytes(place) + b"x" + bytes((1 << 20) - place - 1))
        assert module._check_of(tmp_path / "column") != before


def test_refreshing(tmp_path, files, tokenizer, builds):
    for _ in range(2):
        stored_in(tmp_path / "store", files, tokenizer, refresh=True)
    assert len(builds) == 2


def test_a_folder_that_cannot_be_written(tmp_path, files, tokenizer, monkeypatch):
    said = []
    monkeypatch.setattr(module.logger, "warning", lambda text, *values: said.append(text % values))
    (tmp_path / "store").write_text("a file")
    apart = stored_in(tmp_path / "store" / "x", files, tokenizer)
    assert "for this process alone" in said[0]
    assert same(apart, in_memory(files, tokenizer, POLICY))


def test_errors_of_the_data_leave_nothing(tmp_path, files, tokenizer):
    files[0].write_text(json.dumps([{"instruction": 1}]))
    for _ in range(2):
        with pytest.raises(DataError, match="instruction"):
            stored_in(tmp_path / "store", files, tokenizer)
    assert not [path for path in (tmp_path / "store").iterdir() if path.is_dir()]
    with pytest.raises(DataError, match="cannot be read"):
        stored_in(tmp_path / "store", [tmp_path / "none.json"], tokenizer)


def test_a_file_that_changes_while_it_is_read_is_not_stored_under_what_it_was(tmp_path, files, tokenizer, monkeypatch):
    real = module.build

    def build(*args):
        files[0].write_text(files[0].read_text().replace("长", "短", 1))
        real(*args)

    monkeypatch.setattr(module, "build", build)
    with pytest.raises(DataError, match="has changed while it was read"):
        stored_in(tmp_path / "store", files, tokenizer)
    assert EncodingCache(tmp_path / "store").entries() == []


def test_dropped_rows_and_weights_are_kept_with_the_entry(tmp_path, tokenizer):
    rows = [*tiny.rows(3), {"instruction": "问", "output": None}, {**tiny.rows(1)[0], "weight": 0.5}]
    files = [tiny.write_rows(tmp_path / "a.json", rows)]
    for _ in range(2):
        stored = stored_in(tmp_path / "store", files, tokenizer, reading=replace(READING, bad_rows=BadRows.DROP))
        assert (len(stored.examples), stored.num_bad, len(stored.dropped)) == (4, 1, 1)
        assert stored.dropped[0].row == 3
        assert stored.dropped[0].line == 17
        assert stored.examples.rows.tolist() == [0, 1, 2, 4]
        weights = stored.examples.total_weights() / stored.examples.num_supervised()
        assert weights.tolist() == [1, 1, 1, 0.5]


@pytest.mark.parametrize(("num_null", "first"), [(5, "'output' is null"), (2, "'instruction' is empty")])
def test_where_all_rows_are_bad_the_most_frequent_reason_is_told(tmp_path, tokenizer, num_null, first):
    rows = [{"instruction": "问", "output": None}] * num_null + [{"instruction": "", "output": "答"}] * 3
    path = tiny.write_rows(tmp_path / "a.json", rows)
    with pytest.raises(DataError) as caught:
        stored_in(None, [path], tokenizer, reading=replace(READING, bad_rows=BadRows.DROP))
    said = str(caught.value)
    assert said.startswith(f"none of the {len(rows)} rows can be trained on ({first}")
    assert f": {max(num_null, 3)}" in said
    assert "--max_seq_length" not in said


def test_processes_give_what_one_process_gives(tmp_path, files, tokenizer, monkeypatch):
    monkeypatch.setattr(cache_build, "_PARALLEL_BYTES", 0)
    monkeypatch.setattr(cache_build, "_BATCH_ROWS", 4)
    many = stored_in(tmp_path / "store", files, tokenizer, num_workers=2)
    assert same(many, in_memory(files, tokenizer, POLICY))


def test_listing_and_clearing(tmp_path, files, tokenizer):
    for limit in (384, 200):
        stored_in(tmp_path / "store", files, tokenizer, replace(POLICY, max_seq_length=limit))
    store = EncodingCache(tmp_path / "store")
    assert sorted(entry.about["max_seq_length"] for entry in store.entries()) == [200, 384]
    num_bytes = sum(entry.num_bytes for entry in store.entries())
    assert store.clear() == (2, num_bytes)
    assert store.entries() == []
    assert EncodingCache(tmp_path / "none").entries() == []
    assert EncodingCache(tmp_path / "none").clear() == (0, 0)


def test_an_entry_in_use_is_not_cleared(tmp_path, files, tokenizer):
    stored_in(tmp_path / "store", files, tokenizer)
    (entry,) = EncodingCache(tmp_path / "store").entries()
    draft = entry.folder.with_name(f".{entry.folder.name}.writing")  # of the process that builds it anew
    shutil.copytree(entry.folder, draft)
    assert len(EncodingCache(tmp_path / "store").entries()) == 1
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def hold():
        with module._locked(entry.folder.with_suffix(".lock")):
            ready.set()
            done.wait(30)

    process = context.Process(target=hold)
    process.start()
    assert ready.wait(30)
    assert EncodingCache(tmp_path / "store").clear() == (0, 0)
    assert draft.is_dir()
    done.set()
    process.join(30)
    assert EncodingCache(tmp_path / "store").clear()[0] == 2
    assert not draft.exists()


def _build(folder, files, tokenizer_folder, results):
    real = module.build

    def slow(*args):
        results.put("built")
        time.sleep(0.5)
        real(*args)

    module.build = slow
    results.put(len(stored_in(folder, files, open_tokenizer(tokenizer_folder)).examples))


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
