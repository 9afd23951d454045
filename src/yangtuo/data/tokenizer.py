"""A tokenizer folder -> text to ids, with the library that the folder was written for.

A folder with `tokenizer.model` is encoded by `sentencepiece` itself: transformers 5 converts such a model into ranked
BPE merges, which breaks ties between equal scores in another order and gives other ids for two rows in three of
Chinese text. A folder with `tokenizer.json` alone is encoded by `tokenizers`.

User text is text: control and added tokens (`</s>`, `[PAD]`, `<|im_end|>`, `<think>`) written inside it are encoded
as ordinary characters and can never become control ids.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from yangtuo.errors import TokenizerError

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


class _Backend(Protocol):
    """What a tokenizer library has to offer; ids of plain text, without control tokens."""

    def encode(self, texts: Sequence[str], num_threads: int) -> list[list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def id_of(self, token: str) -> int | None: ...

    def num_tokens(self) -> int: ...


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    Attributes:
        folder: where its files lie.
        bos_id: id put before the prompt; None where the tokenizer's own rule puts none.
        eos_id: id that ends an answer.
        num_tokens: length of the vocabulary with added tokens; the model needs at least as many rows.
    """

    folder: Path
    backend: _Backend
    bos_id: int | None
    eos_id: int
    num_tokens: int

    def encode(self, texts: Sequence[str], *, num_threads: int | None = None) -> list[list[int]]:
        """Ids of each text as plain text, without BOS and EOS."""
        return self.backend.encode(texts, num_threads or os.cpu_count() or 1)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, control tokens left out."""
        return self.backend.decode([i for i in ids if i not in (self.bos_id, self.eos_id)])

    def sha256(self) -> str:
        """One hash over the files that decide the ids; equal hashes give equal ids."""
        digest = hashlib.sha256()
        for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
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
        raise TokenizerError(f"{folder}: no tokenizer here; expected tokenizer.model (LLaMA) or tokenizer.json")
    config = _read_json(folder / "tokenizer_config.json")
    special = _read_json(folder / "special_tokens_map.json")
    added = {str(text): int(i) for text, i in _read_json(folder / "added_tokens.json").items()}
    for i, spec in config.get("added_tokens_decoder", {}).items():
        added.setdefault(spec["content"], int(i))
    named = {key: _token_text(config.get(key)) or _token_text(special.get(key)) for key in ("bos_token", "eos_token")}
    control = {text for text in named.values() if text} | _declared_special(config, special)
    if (folder / "tokenizer.model").is_file():
        return _open_sentencepiece(folder, config, named, added, control)
    return _open_json(folder, config, named)


def _declared_special(config: dict[str, Any], special: dict[str, Any]) -> set[str]:
    """The control tokens that the folder's configuration names."""
    decoder = [spec["content"] for spec in config.get("added_tokens_decoder", {}).values() if spec.get("special")]
    listed = [*config.get("additional_special_tokens", []), *special.get("additional_special_tokens", [])]
    return {*decoder, *map(_token_text, listed)}


def _open_sentencepiece(
    folder: Path, config: dict[str, Any], named: dict[str, str], added: dict[str, int], control: set[str]
) -> Tokenizer:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"{folder}/tokenizer.model: not a sentencepiece model ({' '.join(str(error).split())[:120]}); "
            "if the folder has a tokenizer.json as well, use a copy of it without tokenizer.model"
        ) from error
    backend = _SentencePiece(model, added)
    for text in sorted(control):
        i = backend.id_of(text)
        if i is not None and i in model.encode(f"a{text}b"):
            raise TokenizerError(
                f"{folder}/tokenizer.model: it turns {text!r} inside a user's text into the control id {i}; "
                "use a folder with tokenizer.json alone"
            )
    bos, eos = backend.id_of(named["bos_token"]), backend.id_of(named["eos_token"])
    if named["eos_token"] and eos is None:
        raise TokenizerError(f"{folder}: its end token {named['eos_token']!r} is not in tokenizer.model")
    bos = model.bos_id() if bos is None else bos
    eos = model.eos_id() if eos is None else eos
    if eos < 0:
        raise TokenizerError(f'{folder}: no end token; name it as "eos_token" in tokenizer_config.json')
    adds_bos = config.get("add_bos_token", True) and bos >= 0
    return Tokenizer(folder, backend, bos if adds_bos else None, eos, backend.num_tokens())


def _open_json(folder: Path, config: dict[str, Any], named: dict[str, str]) -> Tokenizer:
    import tokenizers

    try:
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        whole = tokenizers.Tokenizer.from_str(text)
        # Without its list of added tokens, the library finds none of them in user text.
        plain = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(text), "added_tokens": []}))
    except Exception as error:  # the library raises bare Exception for any fault of the file
        raise TokenizerError(
            f"{folder}/tokenizer.json: cannot be read: {' '.join(str(error).split())[:120]}"
        ) from error
    for tokenizer in (whole, plain):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    backend = _Json(whole, plain)
    eos = backend.id_of(named["eos_token"])
    if eos is None:
        raise TokenizerError(f'{folder}: no end token; name it as "eos_token" in tokenizer_config.json')
    return Tokenizer(folder, backend, _own_bos(whole, config, named["bos_token"]), eos, backend.num_tokens())


def _own_bos(tokenizer: Any, config: dict[str, Any], bos_token: str) -> int | None:
    """The id that the tokenizer itself puts before a text, if any (its post-processor, or `add_bos_token`)."""
    with_special = tokenizer.encode("a").ids
    without = tokenizer.encode("a", add_special_tokens=False).ids
    bos: int | None = tokenizer.token_to_id(bos_token) if bos_token else None
    if len(with_special) > len(without) and with_special[0] != without[0]:
        return int(with_special[0])
    return bos if config.get("add_bos_token") else None


class _SentencePiece:
    def __init__(self, model: Any, added: dict[str, int]):
        self._model, self._added = model, added

    def encode(self, texts: Sequence[str], num_threads: int) -> list[list[int]]:
        ids: list[list[int]] = self._model.encode(list(texts), num_threads=num_threads)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        size = self._model.get_piece_size()
        return str(self._model.decode([int(i) for i in ids if i < size]))

    def id_of(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        i = self._model.piece_to_id(token) if token else self._model.unk_id()
        return None if i == self._model.unk_id() else int(i)

    def num_tokens(self) -> int:
        size = int(self._model.get_piece_size())
        return max(size, *(i + 1 for i in self._added.values()), 0)


class _Json:
    def __init__(self, whole: Any, plain: Any):
        self._whole, self._plain = whole, plain

    def encode(self, texts: Sequence[str], num_threads: int) -> list[list[int]]:
        # The library takes the number of its threads from the environment, and only before its first use.
        os.environ.setdefault("RAYON_NUM_THREADS", str(num_threads))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
        return [encoding.ids for encoding in self._plain.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._whole.decode(list(ids), skip_special_tokens=True))

    def id_of(self, token: str) -> int | None:
        i: int | None = self._whole.token_to_id(token) if token else None
        return i

    def num_tokens(self) -> int:
        return int(max(self._whole.get_vocab(with_added_tokens=True).values())) + 1


def _token_text(value: Any) -> str:
    return str(value.get("content", "") if isinstance(value, dict) else value or "")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path}: broken JSON: {error}") from error
    return value if isinstance(value, dict) else {}
