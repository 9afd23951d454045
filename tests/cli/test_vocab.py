"""`yangtuo vocab`: what it writes, what it says, what it refuses."""

import argparse
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer

from tests import tiny
from tests.unit.vocab.test_grow import POEM
from yangtuo.cli import vocab
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError, ModelError, RunFolderError, TokenizerError, UsageError, UserError
from yangtuo.vocab import grow, resize


def do(*words):
    parser = argparse.ArgumentParser("yangtuo vocab")
    vocab.add_options(parser)
    vocab.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with base/, corpus.txt, extra.model and the merged tokenizer in grown/."""
    folder = tmp_path_factory.mktemp("vocab")
    tiny.tiny_sentencepiece(folder / "base")
    (folder / "corpus.txt").write_text("\n".join(POEM), encoding="utf-8")
    do("train", folder / "corpus.txt", "--out", folder / "extra.model", "--vocab_size", 70, "--num_threads", 1)
    merge(folder, folder / "grown", "--pad_token", "[PAD]")
    return folder


def merge(made, out, *more):
    do("merge", made / "base" / "tokenizer.model", made / "extra.model", "--out", out, *more)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", [AutoTokenizer, LlamaTokenizer])
def test_transformers_opens_a_merged_folder(made, kind):
    theirs, ours = kind.from_pretrained(made / "grown"), open_tokenizer(made / "grown")
    assert type(theirs) is LlamaTokenizer
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id) == (1, 2, 0)
    assert (theirs.pad_token, theirs.pad_token_id) == ("[PAD]", ours.num_tokens - 1)
    assert len(theirs) == ours.num_tokens
    assert theirs("明月").input_ids == [1, *ours.encode(["明月"])[0]]
    assert theirs.decode(ours.encode(["明月\n😀"])[0]) == "明月\n😀"


def test_a_folder_in_use_is_not_touched_and_nothing_is_left_of_a_failure(made, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty"):
        merge(made, tmp_path / "out")
    with pytest.raises(TokenizerError, match="already a piece"):
        merge(made, tmp_path / "new", "--pad_token", "</s>")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["mine.txt"]


def test_an_empty_folder_is_taken_and_a_draft_of_another_is_not(made, tmp_path):
    (tmp_path / "out").mkdir()
    merge(made, tmp_path / "out")
    assert names(tmp_path / "out") == ["special_tokens_map.json", "tokenizer.model", "tokenizer_config.json"]
    (tmp_path / "next.unfinished").mkdir()
    with pytest.raises(RunFolderError, match=r"next\.unfinished exists"):
        merge(made, tmp_path / "next")
    assert names(tmp_path) == ["next.unfinished", "out"]


def test_a_write_that_fails_leaves_nothing(made, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(grow, "write_folder", full)
    with pytest.raises(Exception, match="cannot be written: No space left on device"):
        merge(made, tmp_path / "out")
    assert names(tmp_path) == []


def model(folder, *, tie=False, with_tokenizer=True):
    tiny.tiny_llama(folder, tie=tie)
    if with_tokenizer:
        tiny.tiny_sentencepiece(folder)
    return folder


@pytest.mark.parametrize("tie", [False, True])
def test_a_resized_model_is_the_old_one_with_more_rows(made, tmp_path, tie):
    old_folder = model(tmp_path / "old", tie=tie)
    do("resize", old_folder, made / "grown", "--out", tmp_path / "new")
    old = AutoModelForCausalLM.from_pretrained(old_folder)
    new = AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    tokenizer = open_tokenizer(tmp_path / "new")
    rows, before = tokenizer.num_tokens, tiny.SENTENCEPIECE_VOCABULARY
    assert new.config.vocab_size == rows == len(new.get_input_embeddings().weight) == len(new.lm_head.weight)
    assert (new.lm_head.weight is new.model.embed_tokens.weight) == tie
    ids = torch.tensor([[1, *open_tokenizer(old_folder).encode(["长城是 The Great Wall"])[0]]])
    with torch.no_grad():
        assert torch.equal(new(ids).logits[..., :before], old(ids).logits)
    i = tokenizer.id_of("明月")
    sources = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in "明月".encode()]
    for grown, kept in ((new.model.embed_tokens, old.model.embed_tokens), (new.lm_head, old.lm_head)):
        assert torch.equal(grown.weight[:before], kept.weight)
        assert torch.equal(grown.weight[i], kept.weight[sources].mean(0))
        assert torch.allclose(grown.weight[tokenizer.id_of("[PAD]")], kept.weight.mean(0), atol=1e-8)
    kept_config = json.loads((old_folder / "config.json").read_text())
    assert json.loads((tmp_path / "new" / "config.json").read_text()) == {**kept_config, "vocab_size": rows}
    assert (tmp_path / "new" / "generation_config.json").read_bytes() == (
        old_folder / "generation_config.json"
    ).read_bytes()
    assert (tmp_path / "new" / "tokenizer.model").read_bytes() == (made / "grown" / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("how", ["asked", "no tokenizer"])
def test_the_mean_of_all_rows_where_it_is_asked_for_or_nothing_else_is_known(made, tmp_path, how):
    old_folder = model(tmp_path / "old", with_tokenizer=how == "asked")
    do("resize", old_folder, made / "grown", "--out", tmp_path / "new", *(["--init", "mean"] if how == "asked" else []))
    old = load_file(old_folder / "model.safetensors")
    new = load_file(tmp_path / "new" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        mean = old[name].double().mean(0).float()
        assert torch.equal(new[name][480:], mean.expand(len(new[name]) - 480, -1))


def test_the_weights_of_2023_are_read_without_running_code(made, tmp_path):
    old_folder = model(tmp_path / "old")
    weights = load_file(old_folder / "model.safetensors")
    (old_folder / "model.safetensors").unlink()
    torch.save(weights, old_folder / "pytorch_model.bin")
    do("resize", old_folder, made / "grown", "--out", tmp_path / "new")
    new = load_file(tmp_path / "new" / "model.safetensors")
    assert new.keys() == weights.keys()
    assert torch.equal(new["lm_head.weight"][:480], weights["lm_head.weight"])
    torch.save({"lm_head.weight": argparse.Namespace()}, old_folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="refused, it is no plain file of tensors"):
        do("resize", old_folder, made / "grown", "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_shards_and_their_index(made, tmp_path):
    plan = resize.plan(model(tmp_path / "old"), made / "grown", from_pieces=True)
    (tmp_path / "new").mkdir()
    resize.write(plan, tmp_path / "new", most_shard_bytes=40_000)
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["metadata"]["total_size"] == plan.num_bytes
    _, told = AutoModelForCausalLM.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(told.values())


def test_a_tied_head_that_is_stored_apart(made, tmp_path):
    old_folder = model(tmp_path / "old", tie=True)
    weights = load_file(old_folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, old_folder / "model.safetensors", {"format": "pt"})
    do("resize", old_folder, made / "grown", "--out", tmp_path / "new")
    assert "lm_head.weight" not in load_file(tmp_path / "new" / "model.safetensors")
    weights["lm_head.weight"] += 1
    save_file(weights, old_folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="ties head and embedding, but the files hold two different ones"):
        do("resize", old_folder, made / "grown", "--out", tmp_path / "other")


def test_a_model_with_enough_rows_has_nothing_to_do(made, tmp_path):
    tokenizer = open_tokenizer(made / "grown")
    for num_rows in (tokenizer.num_tokens, tokenizer.num_tokens + 10):
        tiny.tiny_llama(tmp_path / str(num_rows), num_rows=num_rows)
        with pytest.raises(ModelError, match=f"it has {num_rows} rows, .* needs {tokenizer.num_tokens}; nothing to do"):
            do("resize", tmp_path / str(num_rows), made / "grown", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_folder_with_the_new_tokenizer_in_it_already(made, tmp_path):
    old_folder = model(tmp_path / "old", with_tokenizer=False)
    open_tokenizer(made / "grown").save(old_folder)
    with pytest.raises(ModelError, match=r"its tokenizer has \d+ tokens, its weights 480 rows"):
        do("resize", old_folder, made / "grown", "--out", tmp_path / "new")
    do("resize", old_folder, made / "grown", "--out", tmp_path / "new", "--init", "mean")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"quantization_config": {}}'), "quantised"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights there"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "perhaps cut short"),
        (lambda folder: save_file({"a": torch.ones(2)}, folder / "model.safetensors"), "0 tensors named"),
        (lambda folder: folder.rename(folder.with_name("gone")), "no such folder"),
    ],
)
def test_a_model_that_cannot_be_grown(made, tmp_path, change, says):
    change(model(tmp_path / "old"))
    with pytest.raises(ModelError, match=says) as caught:
        do("resize", tmp_path / "old", made / "grown", "--out", tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("new*"))


def test_rows_and_plain_texts_train_the_same_vocabulary(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(POEM), encoding="gb18030")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in POEM))
    (tmp_path / "a.json").write_text(
        json.dumps([{"instruction": a, "input": "", "output": b} for a, b in zip(POEM[::2], POEM[1::2], strict=True)])
    )
    models = set()
    for name in ("a.txt", "a.jsonl", "a.json"):
        do("train", tmp_path / name, "--out", tmp_path / f"{name}.model", "--vocab_size", 60, "--num_threads", 1)
        models.add((tmp_path / f"{name}.model").read_bytes())
    assert len(models) == 1


@pytest.mark.parametrize(
    ("words", "kind", "says"),
    [
        (["corpus.txt", "--out", "extra.model"], RunFolderError, "exists already"),
        (["none.txt", "--out", "x.model"], DataError, "no such file"),
        ([".", "--out", "x.model"], DataError, "a folder; name the files in it"),
        (["corpus.txt", "--out", "x.model"], DataError, "--vocab_size 20000: the text gives"),
        (["corpus.txt", "--out", "x.model", "--vocab_size", "0"], UsageError, "too small"),
        (["corpus.txt", "--out", "x.model", "--character_coverage", "2"], UsageError, "at most 1"),
        (["corpus.txt", "--out", "x.model", "--max_sentences", "-1"], UsageError, "0 for all, or more than 100"),
        (["corpus.txt", "--out", "no/x.model", "--vocab_size", "70"], RunFolderError, "no is no folder; make it first"),
    ],
)
def test_a_training_that_cannot_be(made, monkeypatch, words, kind, says):
    monkeypatch.chdir(made)
    before = names(made)
    with pytest.raises(kind, match=says) as caught:
        do("train", *words)
    assert isinstance(caught.value, UserError)
    assert names(made) == before


def test_figures_of_two_tokenizers(made, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("明月光\n\nab 😀\n", encoding="utf-8")
    do("stats", tmp_path / "t.txt", "--tokenizer", made / "base", "--tokenizer", made / "grown", "--json")
    old, new = json.loads(capsys.readouterr().out)
    assert (old["num_texts"], old["num_characters"], old["num_chinese"], old["num_unaligned"]) == (2, 7, 3, 0)
    tokenizer = open_tokenizer(made / "base")
    ids = tokenizer.encode(["明月光", "ab 😀"])
    assert old["num_tokens"] == sum(map(len, ids))
    assert old["num_byte_tokens"] == 9 + 4
    assert old["tokens_per_chinese_character"] == 3
    assert old["byte_share"] == 13 / old["num_tokens"]
    assert new["tokens_per_chinese_character"] < 1
    assert new["num_byte_tokens"] == 4
    do("stats", tmp_path / "t.txt", "--tokenizer", made / "base", "--tokenizer", made / "grown")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 texts, 7 characters"
    assert lines[2].split()[0] == str(made / "base")
    assert lines[2].split()[-2:] == ["3.000", f"{old['byte_share']:.1%}"]


def test_figures_of_a_byte_level_tokenizer_count_parts_of_characters(tmp_path, capsys):
    tiny.tiny_json_tokenizer(tmp_path / "json")
    (tmp_path / "t.txt").write_text("abc\n魑", encoding="utf-8")
    do("stats", tmp_path / "t.txt", "--tokenizer", tmp_path / "json", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["num_chinese"], found["chinese_tokens"], found["num_byte_tokens"]) == (1, 3, 3)


def test_a_tokenizer_that_changes_the_text_has_no_chinese_figure(made, tmp_path, capsys):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "tokenizer.model").write_bytes((made / "extra.model").read_bytes())
    (tmp_path / "t.txt").write_text("魑魅\n", encoding="utf-8")
    do("stats", tmp_path / "t.txt", "--tokenizer", tmp_path / "bare", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["num_unaligned"], found["tokens_per_chinese_character"]) == (1, None)


def test_a_tokenizer_or_a_text_that_is_not_there(made, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(TokenizerError, match="no tokenizer here"):
        do("stats", made / "corpus.txt", "--tokenizer", tmp_path)
    with pytest.raises(DataError, match="no such file"):
        do("stats", tmp_path / "none.txt", "--tokenizer", made / "base")
    with pytest.raises(UsageError, match="no text"):
        do("stats", tmp_path / "empty.txt", "--tokenizer", made / "base")
