"""Vocabularies that grow: sentencepiece models merged into one, and the rows that a model needs for the new pieces.

Source of the merge: scripts/merge_tokenizer of ymcui/Chinese-LLaMA-Alpaca (2023), whose files it gives byte for byte.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import DataError, TokenizerError, UsageError, one_line
from yangtuo.i18n import Message

if TYPE_CHECKING:
    import torch

_NORMAL, _USER_DEFINED = 1, 4  # sentencepiece_model.proto, Type
_BPE = 2  # TrainerSpec.ModelType
_BLOCK_PIECES = 256
_APART = "\n"  # in no text piece of LLaMA's, so that nothing merges across it


@dataclass(frozen=True)
class Merged:
    """A merged sentencepiece model.

    Attributes:
        model: the file's bytes.
        num_base: pieces of the base; they keep their ids.
        num_added: pieces that each of the other models has added, in the order given.
        num_left_out: control, byte, unknown and unused pieces of the other models, which are never added.
        num_unreachable: added pieces that no text is ever turned into, since no two pieces merge into them.
        pad_token: the padding token, None where there is none.
    """

    model: bytes
    num_base: int
    num_added: tuple[int, ...]
    num_left_out: int
    num_unreachable: int
    pad_token: str | None

    @property
    def num_pieces(self) -> int:
        """All of them, the padding token included."""
        return int(_opened(self.model).get_piece_size())


def merge(base: Path, extras: Sequence[Path], pad_token: str | None = None) -> Merged:
    """Add the pieces of other models to a BPE model, each with score 0, and last the padding token.

    The base keeps its ids and its normalisation. In a BPE model a score of 0 is higher than that of any learned piece,
    so added pieces merge before all others, the leftmost first.

    Args:
        base: sentencepiece BPE model.
        extras: sentencepiece models of any type; only their text pieces count.
        pad_token: a token for padding to add as a piece, None for none.

    Raises:
        TokenizerError: a file that is missing or no sentencepiece model, a base that is not BPE or has no end token, a
            file that adds nothing, or a padding token that cannot be one.
    """
    paths = [base, *extras]
    for i, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:i]]:
            raise TokenizerError("{path}: given twice; name each model once", path=path)
    merged = _read(base)
    if merged.trainer_spec.model_type != _BPE:
        raise TokenizerError(
            "{base}: not a BPE model; only a BPE model, as LLaMA's is, can take other pieces in", base=base
        )
    old = _opened(merged.SerializeToString())
    if old.eos_id() < 0:
        raise TokenizerError("{base}: no end token in it, so no answer could end; give a model with </s>", base=base)
    known = {piece.piece for piece in merged.pieces}
    num_base, num_left_out = len(known), 0
    new: list[list[str]] = []
    for path in extras:
        pieces = [piece for piece in _read(path).pieces if piece.piece not in known]
        new.append([piece.piece for piece in pieces if piece.type in (_NORMAL, _USER_DEFINED)])
        if not new[-1]:
            raise TokenizerError("{path}: all its pieces are in the models before it already; leave it out", path=path)
        num_left_out += len(pieces) - len(new[-1])
        known.update(new[-1])
        for text in new[-1]:
            _append(merged, text)
    if pad_token is not None:
        _add_pad(merged, pad_token, base, known)
    elif old.pad_id() >= 0:
        pad_token = old.id_to_piece(old.pad_id())
    num_unreachable = sum(not reached for reached in _reachable([text for texts in new for text in texts], known))
    model = merged.SerializeToString()
    return Merged(model, num_base, tuple(map(len, new)), num_left_out, num_unreachable, pad_token)


def _read(path: Path) -> Any:
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    if not path.is_file():
        kind = Message("a folder; name the tokenizer.model in it") if path.is_dir() else Message("no such file")
        raise TokenizerError("{path}: {kind}", path=path, kind=kind)
    try:
        # It looks closer than protobuf, which takes many a file for an empty model.
        sentencepiece.SentencePieceProcessor(model_file=str(path))
        data = path.read_bytes()
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            "{path}: not a sentencepiece model ({error})", path=path, error=one_line(error, 120)
        ) from error
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(data)
    return model


def _opened(model: bytes) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=model)


def _append(model: Any, piece: str) -> None:
    new = model.pieces.add()
    new.piece, new.score = piece, 0.0  # the score is written though it is the default, the type is not: as in 2023


def _add_pad(merged: Any, pad_token: str, base: Path, known: set[str]) -> None:
    if not pad_token or any(character.isspace() for character in pad_token):
        raise TokenizerError(
            "--pad_token {pad_token!r}: a token without blanks is needed, as [PAD]", pad_token=pad_token
        )
    if pad_token in known:
        raise TokenizerError(
            "--pad_token {pad_token}: already a piece that text may turn into; choose another", pad_token=pad_token
        )
    old = _opened(merged.SerializeToString())
    if old.pad_id() >= 0:
        raise TokenizerError(
            "--pad_token {pad_token}: {base} has {id_to_piece} for padding; leave the option out",
            pad_token=pad_token,
            base=base,
            id_to_piece=old.id_to_piece(old.pad_id()),
        )
    _append(merged, pad_token)
    if len(merged.pieces) - 1 in _opened(merged.SerializeToString()).encode(f"a{pad_token}b"):
        raise TokenizerError(
            "--pad_token {pad_token}: a text with it would turn into padding; choose another", pad_token=pad_token
        )


def _reachable(new: Sequence[str], known: set[str]) -> Iterator[bool]:
    """Whether some order of merges leads from characters to each piece."""
    found: dict[str, bool] = {}

    def is_reachable(piece: str) -> bool:
        if piece not in found:
            found[piece] = len(piece) == 1 or any(
                left in known and right in known and is_reachable(left) and is_reachable(right)
                for left, right in ((piece[:i], piece[i:]) for i in range(1, len(piece)))
            )
        return found[piece]

    return map(is_reachable, new)


def write_folder(merged: Merged, folder: Path) -> None:
    """Write the tokenizer's files into an existing folder: `tokenizer.model` and what transformers reads beside it.

    No `tokenizer.json`: that format ranks its merges, and no ranking gives the ids of a model whose pieces have equal
    scores. In Chinese-LLaMA's, the text 产生产 is 产生 + 产 and the text 生产生 is 生产 + 生: opposite ranks.
    """
    model = _opened(merged.model)
    bos, eos = model.bos_id(), model.eos_id()
    special = {"unk_token": model.id_to_piece(model.unk_id()), "eos_token": model.id_to_piece(eos)}
    if bos >= 0:
        special["bos_token"] = model.id_to_piece(bos)
    if merged.pad_token is not None:
        special["pad_token"] = merged.pad_token
    how = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    ids = {model.piece_to_id(text): text for text in special.values()}
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,  # text is encoded as sentencepiece encodes it, also behind a control token
        "add_bos_token": bos >= 0,
        "add_eos_token": False,
        **special,
        "added_tokens_decoder": {str(i): {"content": ids[i], **how} for i in sorted(ids)},
        "clean_up_tokenization_spaces": False,
        "sp_model_kwargs": {},
    }
    (folder / "tokenizer.model").write_bytes(merged.model)
    for name, content in (("tokenizer_config.json", config), ("special_tokens_map.json", special)):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Training:
    """How a vocabulary is trained; the defaults suit merging into LLaMA's.

    Attributes:
        vocab_size: pieces, <unk>, <s> and </s> included.
        character_coverage: share of the text's characters that become pieces; LLaMA's bytes spell the others.
        num_threads: threads of sentencepiece.
        max_sentences: texts drawn at random from all, 0 for all.
    """

    vocab_size: int = 20_000
    character_coverage: float = 0.9995
    num_threads: int = 1
    max_sentences: int = 0


def train(texts: Iterable[str], training: Training) -> bytes:
    """Train a BPE model, with LLaMA's rules for text; returns the file's bytes, the same for the same input.

    Raises:
        DataError: no text, or too little of it for so many pieces.
        UsageError: too few pieces for the characters of the text.
    """
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=training.vocab_size,
            character_coverage=training.character_coverage,
            num_threads=training.num_threads,
            input_sentence_size=training.max_sentences,
            shuffle_input_sentence=bool(training.max_sentences),
            byte_fallback=False,  # the base has the bytes
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        told = one_line(error)
        if "sentences_.empty()" in told:
            raise DataError("no text in these files; a vocabulary needs some") from error
        if "Vocabulary size too high" in told:
            most = told.rsplit("<=", 1)[-1].strip(" .")
            raise DataError(
                "--vocab_size {vocab_size}: the text gives {most} pieces at most; add text, or ask for fewer",
                vocab_size=training.vocab_size,
                most=most,
            ) from error
        if "smaller than required_chars" in told:
            raise UsageError(
                "--vocab_size {vocab_size}: fewer than the text's characters ({told}); ask for more, or lower "
                "--character_coverage",
                vocab_size=training.vocab_size,
                told=told.split("required_chars.")[-1].split(".")[0].strip(),
            ) from error
        raise
    return model.getvalue()


@dataclass(frozen=True)
class Growth:
    """Which rows a grown embedding gets.

    Attributes:
        num_kept: rows that stay as they are; the ids of the old pieces.
        num_rows: rows after it.
        sources: id of a new piece -> old ids whose rows it is the mean of; for those absent, the mean of all kept.
    """

    num_kept: int
    num_rows: int
    sources: Mapping[int, Sequence[int]] = field(default_factory=dict)


def plan_growth(new: Tokenizer, old: Tokenizer | None, num_rows: int) -> Growth:
    """From a model of `num_rows` rows to one row for each token of `new`.

    With `old`, the tokenizer that the model was trained with, each new piece comes from the pieces that `old` splits
    its text into; control tokens, and tokens that are no whole characters, come from the mean of all.

    Raises:
        TokenizerError: the two tokenizers do not agree on the old ids.
    """
    if old is None:
        return Growth(num_rows, new.num_tokens)
    num_kept = min(num_rows, old.num_tokens)
    for i in range(num_kept):
        if old.bytes_of(i) != new.bytes_of(i):
            raise TokenizerError(
                "{folder}: its token {i} is {new}, in {old_folder} {old}; only a tokenizer grown from the model's own "
                "fits",
                folder=new.folder,
                i=i,
                new=_shown(new, i),
                old_folder=old.folder,
                old=_shown(old, i),
            )
    controls = set(new.controls.values())
    texts: dict[int, str] = {}
    for i in set(range(num_kept, new.num_tokens)) - controls:
        try:
            texts[i] = new.bytes_of(i).decode()
        except UnicodeDecodeError:
            continue
    together = old.encode([_APART, *(_APART + text for text in texts.values())])
    apart, split = together[0], together[1:]
    if any(ids[: len(apart)] != apart for ids in split):  # it merges with what follows
        apart, split = [], old.encode(list(texts.values()))
    sources = {i: ids[len(apart) :] for i, ids in zip(texts, split, strict=True)}
    return Growth(num_kept, new.num_tokens, {i: ids for i, ids in sources.items() if ids})


def _shown(tokenizer: Tokenizer, i: int) -> str:
    return repr(tokenizer.bytes_of(i).decode(errors="replace"))


def grow(weight: "torch.Tensor", growth: Growth) -> "torch.Tensor":
    """[old rows, width] -> [growth.num_rows, width], same dtype; kept rows bit for bit, means taken in float32."""
    import torch

    kept = weight[: growth.num_kept]
    new = torch.empty(growth.num_rows - growth.num_kept, weight.shape[1], dtype=weight.dtype)
    mean = torch.zeros(weight.shape[1], dtype=torch.float64)
    for start in range(0, len(kept), 4096):
        mean += kept[start : start + 4096].double().sum(0)
    new[:] = (mean / len(kept)).to(weight.dtype)
    by_length: dict[int, list[int]] = {}
    for i, ids in growth.sources.items():
        by_length.setdefault(len(ids), []).append(i)
    for alike in by_length.values():
        for start in range(0, len(alike), _BLOCK_PIECES):  # many in one call, each being small
            block = alike[start : start + _BLOCK_PIECES]
            rows = kept[torch.tensor([list(growth.sources[i]) for i in block])].float()
            new[torch.tensor(block) - growth.num_kept] = rows.mean(1).to(weight.dtype)
    return torch.cat([kept, new])
