"""A tokenizer folder -> text to ids, with the library that the folder was written for.

A folder with `tokenizer.model` is encoded by `sentencepiece` itself: transformers 5 converts such a model into ranked
BPE merges, which breaks ties between equal scores in another order and gives other ids for two rows in three of
Chinese text. A folder with `tokenizer.json` alone is encoded by `tokenizers`.

User text is text: control tokens (`</s>`, `[PAD]`, `<|im_end|>`) written inside it are encoded as ordinary characters
and can never become control ids. Added tokens that are not special (`<think>`, new Chinese words) are words of the
vocabulary, and become their ids wherever they stand, as in transformers.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from yangtuo.data.backends import Blank, Json, SentencePiece, blank_of, without_blank
from yangtuo.data.control_tokens import WELL_KNOWN, Spelled, stripping
from yangtuo.data.tokenizer_config import (
    NAMES,
    added_tokens,
    declared_special,
    declared_tokens,
    decoder_of,
    own_chat_template,
    read_json,
    token_text,
)
from yangtuo.data.two_tokenizers import added_by_json
from yangtuo.errors import TokenizerError, one_line

# What a tokenizer folder may consist of; copied beside every adapter.
FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


# Those that decide ids; the chat template is part of the template's own identity.
_DECIDING = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
)


class _Backend(Protocol):
    """What a tokenizer library has to offer; ids of plain text, without control tokens."""

    blank: Blank

    def encode(
        self, texts: Sequence[str], num_threads: int, continues: Sequence[bool] | None = None
    ) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def id_of(self, token: str) -> int | None: ...

    def num_tokens(self) -> int: ...

    def bytes_of(self, i: int) -> bytes: ...

    def is_byte(self, i: int) -> bool: ...


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    Attributes:
        folder: where its files lie.
        bos_id: id put before the prompt; None where the tokenizer's own rule puts none.
        eos_id: id that ends an answer.
        num_tokens: length of the vocabulary with added tokens; the model needs at least as many rows.
        controls: the control and added tokens with their ids.
        words: those of them that are not special, which a user's text has too; the others are made by templates alone.
        chat_template: the folder's own, jinja; None where it has none.
        names: what its configuration calls `bos_token`, `eos_token` and such, for chat templates.
        spelled: what `--parse_special_tokens` reads out of a user's text.
        strips: the tokens that swallow the blanks beside them, by their ids.
        told: what a user should know of its files.
    """

    folder: Path
    backend: _Backend
    bos_id: int | None
    eos_id: int
    num_tokens: int
    controls: Mapping[str, int] = field(default_factory=dict)
    words: frozenset[str] = frozenset()
    chat_template: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, Spelled] = field(default_factory=dict)
    strips: Mapping[int, Spelled] = field(default_factory=dict)
    told: str = ""

    @property
    def blank(self) -> Blank:
        """Where the library puts a blank of its own; `encode` has to be told then which texts continue others."""
        return self.backend.blank

    def encode(
        self, texts: Sequence[str], *, num_threads: int | None = None, continues: Sequence[bool] | None = None
    ) -> list[list[int]]:
        """Ids of each text as plain text, without BOS and EOS; `continues`: which get no blank before them."""
        return self.backend.encode(texts, num_threads or os.cpu_count() or 1, continues)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens left out."""
        return self.backend.decode([i for i in ids if i not in (self.bos_id, self.eos_id)])

    def bytes_of(self, i: int) -> bytes:
        """What a token stands for: mostly a text, part of a character where it is a byte."""
        return self.backend.bytes_of(i)

    def is_byte(self, i: int) -> bool:
        """Whether a token stands for one byte of a character that the vocabulary does not have."""
        return self.backend.is_byte(i)

    def id_of(self, token: str) -> int | None:
        """The id of a token given by its text, None where there is none."""
        return self.controls.get(token, self.backend.id_of(token))

    def name_of(self, i: int) -> str | None:
        """The control token with this id, None for others."""
        if i in (self.eos_id, self.bos_id) and i not in self.controls.values():
            return "</s>" if i == self.eos_id else "<s>"
        return next((text for text, j in self.controls.items() if j == i), None)

    def sha256(self) -> str:
        """One hash over the files that decide the ids; equal hashes give equal ids."""
        digest = hashlib.sha256()
        for name in _DECIDING:
            if (self.folder / name).is_file():
                digest.update(name.encode() + (self.folder / name).read_bytes())
        return digest.hexdigest()

    def num_bytes(self) -> int:
        """Size of the files that `save` writes."""
        return sum((self.folder / name).stat().st_size for name in FILES if (self.folder / name).is_file())

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files, byte for byte."""
        for name in FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)


def is_tokenizer_folder(folder: Path) -> bool:
    """Whether a folder holds a tokenizer that can be opened here."""
    return (folder / "tokenizer.model").is_file() or (folder / "tokenizer.json").is_file()


def open_tokenizer(folder: Path) -> Tokenizer:
    """Open a tokenizer folder.

    Raises:
        TokenizerError: no tokenizer in it, a broken file, or no end token.
    """
    if not is_tokenizer_folder(folder):
        raise TokenizerError(
            "{folder}: no tokenizer here; expected tokenizer.model (LLaMA) or tokenizer.json", folder=folder
        )
    config = read_json(folder / "tokenizer_config.json")
    special = read_json(folder / "special_tokens_map.json")
    named = {key: token_text(config.get(key)) or token_text(special.get(key)) for key in NAMES}
    control = {text for key in ("bos_token", "eos_token") if (text := named[key])} | declared_special(config, special)
    if (folder / "tokenizer.model").is_file():
        opened = _open_sentencepiece(folder, config, special, named, control)
    else:
        opened = _open_json(folder, config, named)
    names = {key: text for key, text in named.items() if text}
    return replace(opened, chat_template=own_chat_template(folder, config), names=names)


def _open_sentencepiece(
    folder: Path,
    config: dict[str, Any],
    special: dict[str, Any],
    named: dict[str, str],
    control: set[str],
) -> Tokenizer:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            "{folder}/tokenizer.model: not a sentencepiece model ({error}); if the folder has a tokenizer.json as "
            "well, use a copy of it without tokenizer.model",
            folder=folder,
            error=one_line(error, 120),
        ) from error
    added, told = added_tokens(folder, config), ""
    if (folder / "tokenizer.json").is_file():
        pieces = {model.id_to_piece(i): i for i in range(model.get_piece_size())} | added
        more, told = added_by_json(folder, pieces)
        added |= {spec["content"]: int(spec["id"]) for spec in more}
        config = {**config, "added_tokens_decoder": {spec["id"]: spec for spec in more} | decoder_of(config)}
        control = control | {spec["content"] for spec in more if spec.get("special")}
    backend = SentencePiece(model, added, {})
    for text in sorted(control):
        i = backend.id_of(text)
        if i is not None and i in model.encode(f"a{text}b"):
            raise TokenizerError(
                "{folder}/tokenizer.model: it turns {text!r} inside a user's text into the control id {i}; use a "
                "folder with tokenizer.json alone",
                folder=folder,
                text=text,
                i=i,
            )
    bos, eos = backend.id_of(named["bos_token"]), backend.id_of(named["eos_token"])
    if named["eos_token"] and eos is None:
        raise TokenizerError(
            "{folder}: its end token {eos_token!r} is not in tokenizer.model",
            folder=folder,
            eos_token=named["eos_token"],
        )
    bos = model.bos_id() if bos is None else bos
    eos = model.eos_id() if eos is None else eos
    if eos < 0:
        raise TokenizerError('{folder}: no end token; name it as "eos_token" in tokenizer_config.json', folder=folder)
    adds_bos = config.get("add_bos_token", True) and bos >= 0
    controls = {text: i for text in sorted(control) if (i := backend.id_of(text)) is not None} | added
    controls |= {model.id_to_piece(i): i for i in range(model.get_piece_size()) if model.is_control(i)}
    opened = Tokenizer(folder, backend, bos if adds_bos else None, eos, backend.num_tokens(), controls)
    spelled = _spelled(opened, config, special, {bos, eos}, model)
    words = frozenset(added.keys() - control - set(named.values()) - set(WELL_KNOWN))
    continued = _without_blank(model) if config.get("legacy") is False else None
    backend = SentencePiece(model, added, {word: spelled[word] for word in words}, continued)
    strips = stripping(spelled[text] for text in declared_tokens(config, special) if text in spelled)
    return replace(opened, backend=backend, spelled=spelled, words=words, strips=strips, told=told)


def _without_blank(model: Any) -> Any:
    """The same sentencepiece model, which puts no blank before a text."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model.serialized_model_proto())
    proto.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def _spelled(
    tokenizer: Tokenizer, config: dict[str, Any], special: dict[str, Any], own: set[int], model: Any
) -> dict[str, Spelled]:
    """What transformers reads out of a text, with the blanks that it strips.

    LLaMA's own three tokens strip none, tokens declared with `lstrip` and `rstrip` as those say, all others both.
    Source: transformers 4.30, `LlamaTokenizer.__init__` and `PreTrainedTokenizer.tokenize`.
    """
    declared = declared_tokens(config, special)
    ids = dict(tokenizer.controls)
    if model.unk_id() >= 0:
        ids[model.id_to_piece(model.unk_id())] = model.unk_id()
    spelled = {}
    for text, i in ids.items():
        strips = i not in own and i != model.unk_id()
        spec = declared.get(text, {"lstrip": strips, "rstrip": strips})
        spelled[text] = Spelled(i, bool(spec.get("lstrip")), bool(spec.get("rstrip")))
    return spelled


def _open_json(folder: Path, config: dict[str, Any], named: dict[str, str]) -> Tokenizer:
    import tokenizers

    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        whole = tokenizers.Tokenizer.from_str(text)
        content = json.loads(text)
        plain = tokenizers.Tokenizer.from_str(text)
        blank = blank_of(content)
        continued = (
            tokenizers.Tokenizer.from_str(json.dumps(without_blank(content))) if blank is not Blank.NEVER else None
        )
    except Exception as error:
        # The library raises Exception itself for any fault of the file; whatever else there is, is a bug of ours.
        if type(error) is not Exception and not isinstance(error, OSError | ValueError):
            raise
        raise TokenizerError(
            "{folder}/tokenizer.json: cannot be read: {error}", folder=folder, error=one_line(error, 120)
        ) from error
    for tokenizer in filter(None, (whole, plain, continued)):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    for tokenizer in filter(None, (plain, continued)):
        tokenizer.encode_special_tokens = True  # as the characters that they are
    listed = content.get("added_tokens", [])
    words = frozenset(str(one["content"]) for one in listed if not one.get("special"))
    backend = Json(whole, plain, continued, blank, [int(one["id"]) for one in listed if not one.get("special")])
    eos = backend.id_of(named["eos_token"])
    if eos is None:
        raise TokenizerError('{folder}: no end token; name it as "eos_token" in tokenizer_config.json', folder=folder)
    controls = {str(one["content"]): int(one["id"]) for one in listed}
    spelled = {
        str(one["content"]): Spelled(int(one["id"]), bool(one.get("lstrip")), bool(one.get("rstrip"))) for one in listed
    }
    bos, strips = _own_bos(whole, config, named["bos_token"]), stripping(spelled.values())
    return Tokenizer(folder, backend, bos, eos, backend.num_tokens(), controls, words, spelled=spelled, strips=strips)


def _own_bos(tokenizer: Any, config: dict[str, Any], bos_token: str) -> int | None:
    """The id that the tokenizer itself puts before a text, if any (its post-processor, or `add_bos_token`)."""
    with_special = tokenizer.encode("a").ids
    without = tokenizer.encode("a", add_special_tokens=False).ids
    bos: int | None = tokenizer.token_to_id(bos_token) if bos_token else None
    if len(with_special) > len(without) and with_special[0] != without[0]:
        return int(with_special[0])
    return bos if config.get("add_bos_token") else None
