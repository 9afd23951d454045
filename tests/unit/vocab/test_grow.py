"""Merged sentencepiece models, and grown rows."""

import hashlib
import subprocess
import sys

import pytest
import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2 as model_format

from tests import tiny
from yangtuo.data.tokenizer import open_tokenizer
from yangtuo.errors import DataError, TokenizerError, UsageError
from yangtuo.vocab import grow as vocabulary
from yangtuo.vocab.grow import Growth, Training, grow, plan_growth

POEM = (
    "床前明月光，疑是地上霜。",
    "举头望明月，低头思故乡。",
    "明月几时有？把酒问青天。",
    "春眠不觉晓，处处闻啼鸟。",
) * 8


def parsed(data):
    model = model_format.ModelProto()
    model.ParseFromString(data)
    return model


def changed(path, out, change):
    """A copy of a model file in which something is different."""
    model = parsed(path.read_bytes())
    change(model)
    out.write_bytes(model.SerializeToString())
    return out


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.tiny_sentencepiece(tmp_path_factory.mktemp("base")) / "tokenizer.model"


@pytest.fixture(scope="module")
def extra(tmp_path_factory):
    path = tmp_path_factory.mktemp("extra") / "extra.model"
    path.write_bytes(vocabulary.train(POEM, Training(vocab_size=70)))
    return path


def test_the_base_keeps_its_pieces_and_the_new_ones_follow_with_score_0(base, extra):
    merged = vocabulary.merge(base, [extra])
    old, others, new = parsed(base.read_bytes()), parsed(extra.read_bytes()), parsed(merged.model)
    assert list(new.pieces[: len(old.pieces)]) == list(old.pieces)
    known = {piece.piece for piece in old.pieces}
    added = new.pieces[len(old.pieces) :]
    assert [piece.piece for piece in added] == [piece.piece for piece in others.pieces if piece.piece not in known]
    assert all(piece.score == 0 and piece.HasField("score") and not piece.HasField("type") for piece in added)
    assert (new.trainer_spec, new.normalizer_spec) == (old.trainer_spec, old.normalizer_spec)
    assert merged.num_base == len(old.pieces)
    assert merged.num_added == (len(added),)
    assert merged.num_pieces == len(new.pieces)
    assert "明月" in [piece.piece for piece in added]


def test_a_text_without_new_pieces_has_the_ids_of_before(base, extra):
    old = sentencepiece.SentencePieceProcessor(model_file=str(base))
    new = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.merge(base, [extra]).model)
    assert new.encode("The Great Wall") == old.encode("The Great Wall")
    assert new.encode("明月") != old.encode("明月")
    assert new.decode(new.encode("举头望明月")) == "举头望明月"


def test_pieces_of_several_models_follow_one_another(base, extra, tmp_path):
    more = tmp_path / "more.model"
    more.write_bytes(vocabulary.train([*POEM, *["白日依山尽，黄河入海流。"] * 8], Training(vocab_size=90)))
    together = vocabulary.merge(base, [extra, more])
    first = vocabulary.merge(base, [extra])
    assert together.num_added[0] == first.num_added[0]
    assert [p.piece for p in parsed(together.model).pieces][: first.num_pieces] == [
        p.piece for p in parsed(first.model).pieces
    ]
    assert together.num_pieces == together.num_base + sum(together.num_added)
    assert len({p.piece for p in parsed(together.model).pieces}) == together.num_pieces


def test_only_text_pieces_are_added_and_the_others_are_counted(base, extra, tmp_path):
    def with_control(model):
        for piece, kind in (("<cls>", 3), ("<0xFF>", 3), ("<sep>", 3)):
            model.pieces.add(piece=piece, score=0, type=kind)

    path = changed(extra, tmp_path / "x.model", with_control)
    merged, plain = vocabulary.merge(base, [path]), vocabulary.merge(base, [extra])
    assert merged.model == plain.model
    assert (merged.num_left_out, plain.num_left_out) == (2, 0)  # the base has the byte


def test_new_pieces_that_nothing_merges_into_are_counted(base, extra, tmp_path):
    def with_long(model):
        model.pieces.add(piece="魑魅魍魉", score=-9)

    assert vocabulary.merge(base, [extra]).num_unreachable == 0
    assert vocabulary.merge(base, [changed(extra, tmp_path / "x.model", with_long)]).num_unreachable == 1


def test_the_padding_token_is_the_last_piece(base, extra):
    merged, without = vocabulary.merge(base, [extra], "[PAD]"), vocabulary.merge(base, [extra])
    pad = parsed(merged.model).pieces[-1]
    assert (pad.piece, pad.score, pad.HasField("score"), pad.HasField("type")) == ("[PAD]", 0, True, False)
    assert merged.num_pieces == without.num_pieces + 1
    assert (merged.pad_token, without.pad_token) == ("[PAD]", None)


@pytest.mark.parametrize(
    ("pad_token", "says"),
    [("<s>", "already a piece"), ("▁is", "already a piece"), ("", "without blanks"), ("a b", "without blanks")],
)
def test_a_padding_token_that_cannot_be_one(base, extra, pad_token, says):
    with pytest.raises(TokenizerError, match=says):
        vocabulary.merge(base, [extra], pad_token)


def test_a_padding_token_that_text_would_turn_into(base, extra):
    assert sentencepiece.SentencePieceProcessor(model_file=str(base)).piece_to_id("明") == 0
    with pytest.raises(TokenizerError, match="a text with it would turn into padding"):
        vocabulary.merge(base, [extra], "明地")


def test_a_base_that_has_padding_keeps_it(base, extra, tmp_path):
    def with_pad(model):
        model.pieces[3].piece, model.pieces[3].type = "<pad>", 3
        model.trainer_spec.pad_id, model.trainer_spec.byte_fallback = 3, False
        for piece in model.pieces[4:259]:
            piece.type = 5

    padded = changed(base, tmp_path / "x.model", with_pad)
    assert vocabulary.merge(padded, [extra]).pad_token == "<pad>"
    with pytest.raises(TokenizerError, match="has <pad> for padding; leave the option out"):
        vocabulary.merge(padded, [extra], "[PAD]")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "not a sentencepiece model"), (b'{"a": 1}', "not a sentencepiece model"), (None, "no such file")],
)
def test_a_file_that_is_no_model(base, tmp_path, content, says):
    path = tmp_path / "x.model"
    if content is not None:
        path.write_bytes(content)
    for models in ((path, [base]), (base, [path])):
        with pytest.raises(TokenizerError, match=f"^{path}: {says}"):
            vocabulary.merge(*models)


def test_a_model_cut_short(base, extra, tmp_path):
    path = tmp_path / "x.model"
    path.write_bytes(base.read_bytes()[:4000])
    with pytest.raises(TokenizerError, match="not a sentencepiece model"):
        vocabulary.merge(path, [extra])


def test_a_folder_a_twin_and_a_model_without_anything_new_are_refused(base, extra, tmp_path):
    with pytest.raises(TokenizerError, match=r"a folder; name the tokenizer\.model in it"):
        vocabulary.merge(base.parent, [extra])
    with pytest.raises(TokenizerError, match="given twice"):
        vocabulary.merge(base, [extra, extra.parent / "." / extra.name])
    copy = tmp_path / "copy.model"
    copy.write_bytes(extra.read_bytes())
    with pytest.raises(TokenizerError, match=r"copy\.model: all its pieces are in the models before it already"):
        vocabulary.merge(base, [extra, copy])


def test_only_a_bpe_model_with_an_end_token_can_be_the_base(base, extra, tmp_path):
    def unigram(model):
        model.trainer_spec.model_type = 1

    def endless(model):
        model.trainer_spec.eos_piece = "<end>"

    with pytest.raises(TokenizerError, match="not a BPE model"):
        vocabulary.merge(changed(base, tmp_path / "x.model", unigram), [extra])
    with pytest.raises(TokenizerError, match="no end token"):
        vocabulary.merge(changed(base, tmp_path / "y.model", endless), [extra])
    assert vocabulary.merge(base, [changed(extra, tmp_path / "z.model", unigram)]).num_added  # chinese_sp.model is one


@pytest.mark.parametrize("pad_token", [None, "[PAD]"])
def test_a_written_folder_opens_here(base, extra, tmp_path, pad_token):
    merged = vocabulary.merge(base, [extra], pad_token)
    vocabulary.write_folder(merged, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    opened = open_tokenizer(tmp_path)
    assert (opened.bos_id, opened.eos_id, opened.num_tokens) == (1, 2, merged.num_pieces)
    assert opened.names == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        **({"pad_token": pad_token} if pad_token else {}),
    }
    if pad_token:
        assert opened.id_of(pad_token) == merged.num_pieces - 1
        assert merged.num_pieces - 1 not in opened.encode(["a[PAD]b"])[0]
    plain = sentencepiece.SentencePieceProcessor(model_proto=merged.model)
    assert opened.encode(POEM) == plain.encode(list(POEM))


def test_training_gives_bpe_without_bytes_and_normalisation_and_the_same_again(extra):
    model = parsed(extra.read_bytes())
    assert model.trainer_spec.model_type == 2
    assert not model.trainer_spec.byte_fallback
    assert model.normalizer_spec.name == "identity"
    assert not model.normalizer_spec.remove_extra_whitespaces
    assert len(model.pieces) == 70
    again = vocabulary.train(POEM, Training(vocab_size=70))
    assert hashlib.sha256(again).digest() == hashlib.sha256(extra.read_bytes()).digest()


def test_a_random_part_of_the_text_is_the_same_part_again():
    texts = [f"{text}{i}" for i, text in enumerate(POEM * 5)]
    once, again = (vocabulary.train(texts, Training(60, max_sentences=101)) for _ in range(2))
    assert once == again != vocabulary.train(texts, Training(60))


@pytest.mark.parametrize(
    ("texts", "num", "kind", "says"),
    [
        ((), 100, DataError, "no text"),
        (POEM, 5000, DataError, r"--vocab_size 5000: the text gives \d+ pieces at most"),
        (POEM, 9, UsageError, r"--vocab_size 9: fewer than the text's characters \(9 vs \d+\)"),
    ],
)
def test_text_that_does_not_give_the_vocabulary_asked_for(texts, num, kind, says):
    with pytest.raises(kind, match=says):
        vocabulary.train(texts, Training(num))


def test_kept_rows_stay_bit_for_bit_and_new_ones_are_means():
    weight = torch.randn(5, 8, generator=torch.manual_seed(0)).to(torch.bfloat16)
    grown = grow(weight, Growth(4, 8, {5: (0, 2, 2), 7: (3,)}))
    assert grown.shape == (8, 8)
    assert grown.dtype == torch.bfloat16
    assert torch.equal(grown[:4], weight[:4])
    assert torch.equal(grown[5], weight[[0, 2, 2]].float().mean(0).bfloat16())
    assert torch.equal(grown[7], weight[3])
    for i in (4, 6):
        assert torch.equal(grown[i], weight[:4].double().mean(0).bfloat16())


@pytest.fixture(scope="module")
def grown_folder(base, extra, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grown")
    vocabulary.write_folder(vocabulary.merge(base, [extra], "[PAD]"), folder)
    return folder


def test_a_new_piece_comes_from_the_pieces_that_the_old_tokenizer_splits_it_into(base, grown_folder):
    old, new = open_tokenizer(base.parent), open_tokenizer(grown_folder)
    growth = plan_growth(new, old, old.num_tokens)
    assert (growth.num_kept, growth.num_rows) == (old.num_tokens, new.num_tokens)
    i = new.id_of("明月")
    assert growth.sources[i] == [old.id_of(f"<0x{byte:02X}>") for byte in "明月".encode()]  # no blank before it
    assert new.id_of("[PAD]") not in growth.sources
    assert len(growth.sources) == new.num_tokens - old.num_tokens - 1
    for j, ids in growth.sources.items():
        assert b"".join(map(old.bytes_of, ids)) == new.bytes_of(j)


def test_without_an_old_tokenizer_all_new_rows_are_the_mean(grown_folder):
    growth = plan_growth(open_tokenizer(grown_folder), None, 300)
    assert growth == Growth(300, open_tokenizer(grown_folder).num_tokens)


def test_rows_beyond_the_old_tokenizer_belong_to_no_old_piece(base, grown_folder):
    old = open_tokenizer(base.parent)
    assert plan_growth(open_tokenizer(grown_folder), old, old.num_tokens + 16).num_kept == old.num_tokens


def test_a_tokenizer_that_does_not_continue_the_old_one_is_refused(base, grown_folder, tmp_path):
    other = changed(
        grown_folder / "tokenizer.model",
        tmp_path / "tokenizer.model",
        lambda model: setattr(model.pieces[300], "piece", "龘龘"),
    )
    with pytest.raises(TokenizerError, match="its token 300 is '龘龘'"):
        plan_growth(open_tokenizer(other.parent), open_tokenizer(base.parent), 480)


def test_a_byte_level_tokenizer_grows_too(tmp_path):
    import tokenizers

    old_folder, new_folder = tiny.tiny_json_tokenizer(tmp_path / "old"), tiny.tiny_json_tokenizer(tmp_path / "new")
    whole = tokenizers.Tokenizer.from_file(str(new_folder / "tokenizer.json"))
    whole.add_tokens(["床前明月光"])
    whole.add_special_tokens(["<|pad|>"])
    whole.save(str(new_folder / "tokenizer.json"))
    old, new = open_tokenizer(old_folder), open_tokenizer(new_folder)
    growth = plan_growth(new, old, old.num_tokens)
    assert growth.num_rows == old.num_tokens + 2


def test_merging_needs_no_torch():
    code = "import sys, yangtuo.cli.vocab, yangtuo.vocab.grow; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
