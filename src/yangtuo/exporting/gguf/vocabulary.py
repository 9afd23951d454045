"""A tokenizer folder as llama.cpp wants it inside a GGUF file.

llama.cpp knows two ways that matter here: sentencepiece's BPE by scores ("llama") and byte-level BPE by ranked merges
("gpt2"). A folder that works in any other way is refused: llama.cpp would read it, and give other ids.

Source: llama.cpp's src/llama-vocab.cpp of 2026 (as in llama-cpp-python 0.3.36); the names of the keys and the numbers
of the token types are the `gguf` package's.
"""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from gguf import Keys, TokenType

from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import TokenizerError
from yangtuo.i18n import Listed, Message

logger = logging.getLogger(__name__)

Value = str | bool | int | float | Sequence[str] | Sequence[int] | Sequence[float]
Fields = Mapping[str, Value]

# Of tokens that no text may become. llama.cpp joins whatever neighbours spell a token, best score first, and does not
# ask for the token's type: with sentencepiece's own 0.0, "<s" + ">" would come before other merges.
_LAST_SCORE = -10_000.0
_NUM_BYTES = 256
_MOST_NAMED = 6  # tokens in a message
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BYTES_ALONE = ("ByteLevel", False, False)
_BYTES_OF_WORDS = ("ByteLevel", False, True)


class _PreTokenizer(NamedTuple):
    """How a text is cut before merges, and whether a word of the vocabulary is taken whole."""

    steps: tuple[tuple[object, ...], ...]
    ignores_merges: bool


# llama.cpp's name -> what tokenizer.json says (of GPT-2, SmolLM2, Llama 3 and Qwen2.5, as published).
_PRE_TOKENIZERS = {
    "gpt-2": _PreTokenizer((_BYTES_OF_WORDS,), False),
    "smollm": _PreTokenizer((("Digits", True), _BYTES_OF_WORDS), False),
    "llama-bpe": _PreTokenizer((("Split", _WORDS + r"\p{N}{1,3}" + _REST, "Isolated", False), _BYTES_ALONE), True),
    "qwen2": _PreTokenizer((("Split", _WORDS + r"\p{N}" + _REST, "Isolated", False), _BYTES_ALONE), False),
}


class _Token(NamedTuple):
    text: str
    type: int
    score: float = _LAST_SCORE


def fields(tokenizer: Tokenizer, num_rows: int) -> dict[str, Value]:
    """The keys `tokenizer.ggml.*` of a GGUF file.

    Args:
        tokenizer: an opened folder.
        num_rows: rows of the model's embedding; llama.cpp wants a token for each.

    Raises:
        TokenizerError: llama.cpp would encode otherwise, or not load the file at all.
    """
    if tokenizer.num_tokens > num_rows:
        raise TokenizerError(
            "{folder}: {num_tokens:,} tokens, but the model has {num_rows:,} rows; take the tokenizer that the model "
            "was trained with",
            folder=tokenizer.folder,
            num_tokens=tokenizer.num_tokens,
            num_rows=num_rows,
        )
    is_sentencepiece = (tokenizer.folder / "tokenizer.model").is_file()
    tokens, found = (_of_sentencepiece if is_sentencepiece else _of_byte_level)(tokenizer)
    tokens = {i: tokens.get(i, _Token(f"[PAD{i}]", TokenType.UNUSED)) for i in range(num_rows)}
    _check_unique(tokenizer, tokens)
    _warn_of_readable(tokenizer, tokens.values(), joins_by_text=is_sentencepiece)
    found[Keys.Tokenizer.LIST] = [token.text for token in tokens.values()]
    found[Keys.Tokenizer.TOKEN_TYPE] = [int(token.type) for token in tokens.values()]
    if is_sentencepiece:
        found[Keys.Tokenizer.SCORES] = [token.score for token in tokens.values()]
    for key, name in (
        (Keys.Tokenizer.BOS_ID, "bos_token"),
        (Keys.Tokenizer.UNK_ID, "unk_token"),
        (Keys.Tokenizer.PAD_ID, "pad_token"),
    ):
        i = tokenizer.id_of(tokenizer.names[name]) if name in tokenizer.names else None
        if i is not None:
            found.setdefault(key, i)
    if tokenizer.bos_id is not None:
        found[Keys.Tokenizer.BOS_ID] = tokenizer.bos_id
    found[Keys.Tokenizer.EOS_ID] = tokenizer.eos_id
    found[Keys.Tokenizer.ADD_BOS] = tokenizer.bos_id is not None
    # Whatever the folder says: in training EOS ends the answer, and llama.cpp would put it behind the question.
    found[Keys.Tokenizer.ADD_EOS] = False
    return found


def _check_unique(tokenizer: Tokenizer, tokens: Mapping[int, _Token]) -> None:
    first: dict[str, int] = {}
    for i, token in tokens.items():
        if not token.text or first.setdefault(token.text, i) != i:
            raise TokenizerError(
                "{folder}: tokens {first} and {i} are both {text!r}; llama.cpp finds a token by its text and cannot "
                "load such a vocabulary",
                folder=tokenizer.folder,
                first=first.get(token.text, i),
                i=i,
                text=token.text,
            )


def _warn_of_readable(tokenizer: Tokenizer, tokens: Collection[_Token], *, joins_by_text: bool) -> None:
    """Name the tokens that llama.cpp reads out of a user's text, where training takes that text for what it is."""
    readable = [token.text for token in tokens if token.type == TokenType.USER_DEFINED]
    if joins_by_text:
        pieces = {token.text for token in tokens}
        readable += [
            token.text
            for token in tokens
            if token.type in (TokenType.CONTROL, TokenType.UNKNOWN) and _is_joined(token.text, pieces)
        ]
    if readable:
        logger.warning(
            "%s: in llama.cpp, a user's text that spells %s becomes that token (%d such); in training it stayed text",
            tokenizer.folder,
            ", ".join(readable[:_MOST_NAMED]),
            len(readable),
        )


def _is_joined(text: str, pieces: Collection[str]) -> bool:
    """Whether a last merge may give it: both parts are pieces, or single characters."""
    parts = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
    return any(all(len(part) == 1 or part in pieces for part in pair) for pair in parts)


def _of_sentencepiece(tokenizer: Tokenizer) -> tuple[dict[int, _Token], dict[str, Value]]:
    from sentencepiece import sentencepiece_model_pb2

    path = tokenizer.folder / "tokenizer.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    trained, normal = model.trainer_spec, model.normalizer_spec
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    num_bytes = sum(piece.type == kinds.BYTE for piece in model.pieces)
    reasons = {
        Message("it is no BPE model"): trained.model_type != sentencepiece_model_pb2.TrainerSpec.BPE,
        Message("it has {num_bytes} of the 256 byte pieces", num_bytes=num_bytes): num_bytes != _NUM_BYTES,
        Message("it changes characters before it encodes (normalizer_spec)"): bool(normal.precompiled_charsmap),
        Message("it removes blanks (remove_extra_whitespaces)"): normal.remove_extra_whitespaces,
        Message("it leaves blanks as they are (escape_whitespaces)"): not normal.escape_whitespaces,
        Message("it puts the blank behind words"): trained.treat_whitespace_as_suffix,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise TokenizerError(
            "{path}: llama.cpp would encode otherwise: {wrong}; serve the folder itself",
            path=path,
            wrong=Listed(wrong, "; "),
        )
    tokens = {
        i: _Token(
            piece.piece,
            TokenType.CONTROL if piece.type == kinds.NORMAL and piece.piece in tokenizer.controls else piece.type,
            _LAST_SCORE if piece.type in (kinds.CONTROL, kinds.UNKNOWN) else piece.score,
        )
        for i, piece in enumerate(model.pieces)
    }
    is_text = _added_as_text(tokenizer)
    for text, i in tokenizer.controls.items():
        if i not in tokens:
            tokens[i] = _Token(text, TokenType.USER_DEFINED if text in is_text else TokenType.CONTROL)
    unknown = [i for i, piece in enumerate(model.pieces) if piece.type == kinds.UNKNOWN]
    found: dict[str, Value] = {
        Keys.Tokenizer.MODEL: "llama",
        Keys.Tokenizer.PRE: "default",
        Keys.Tokenizer.ADD_PREFIX: bool(normal.add_dummy_prefix),
        **({Keys.Tokenizer.UNK_ID: unknown[0]} if unknown else {}),
    }
    return tokens, found


def _added_as_text(tokenizer: Tokenizer) -> set[str]:
    """The added tokens that the folder declares to be no control tokens: a program shows them as text."""
    path = tokenizer.folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {one["content"] for one in config.get("added_tokens_decoder", {}).values() if one.get("special") is False}


def _of_byte_level(tokenizer: Tokenizer) -> tuple[dict[int, _Token], dict[str, Value]]:
    path = tokenizer.folder / "tokenizer.json"
    whole = json.loads(path.read_text(encoding="utf-8"))
    model = whole["model"]
    name = _pre_tokenizer(whole)
    merges = [one if isinstance(one, str) else " ".join(one) for one in model.get("merges", ())]
    normalizer = whole.get("normalizer")
    reasons = {
        Message("its model is {type_}", type_=model.get("type")): model.get("type") != "BPE",
        Message("it has no merges"): not merges,
        Message("its pieces carry marks of where words go on or end"): bool(
            model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        ),
        # llama.cpp leaves out Qwen's NFC: a letter and its accent typed apart, or a compatibility ideograph, differ.
        Message("its normalizer is {normalizer}", normalizer=_short(normalizer)): normalizer
        not in (None, {"type": "NFC"}),
        Message("its pre-tokenizer is {pre_tokenizer}", pre_tokenizer=_short(whole.get("pre_tokenizer"))): name is None,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        hint = Message("known are the byte-level ones of {known}", known=", ".join(_PRE_TOKENIZERS))
        if model.get("byte_fallback"):
            hint = Message("put the tokenizer.model that it was made from beside it")
        raise TokenizerError(
            "{path}: llama.cpp would encode otherwise: {wrong}; {hint}", path=path, wrong=Listed(wrong, "; "), hint=hint
        )
    tokens = {i: _Token(text, TokenType.NORMAL) for text, i in model["vocab"].items()}
    for one in whole.get("added_tokens", ()):
        text = str(one["content"])
        # Some of Qwen's <|...|> are declared as text; llama.cpp takes the known ones of them for control tokens anyway.
        is_control = bool(one.get("special")) or (text.startswith("<|") and text.endswith("|>"))
        tokens[int(one["id"])] = _Token(text, TokenType.CONTROL if is_control else TokenType.USER_DEFINED)
    found: dict[str, Value] = {
        Keys.Tokenizer.MODEL: "gpt2",
        Keys.Tokenizer.PRE: str(name),
        Keys.Tokenizer.MERGES: merges,
        Keys.Tokenizer.ADD_PREFIX: False,
    }
    return tokens, found


def _pre_tokenizer(whole: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for what this tokenizer.json does before merges; None where it has none."""
    steps = tuple(_steps(whole.get("pre_tokenizer") or {}))
    found = _PreTokenizer(steps, bool(whole["model"].get("ignore_merges")))
    return next((name for name, known in _PRE_TOKENIZERS.items() if known == found), None)


def _steps(spec: Mapping[str, Any]) -> list[tuple[object, ...]]:
    kind = spec.get("type")
    if kind == "Sequence":
        return [step for one in spec.get("pretokenizers", ()) for step in _steps(one)]
    if kind == "ByteLevel":
        return [(kind, bool(spec.get("add_prefix_space", True)), bool(spec.get("use_regex", True)))]
    if kind == "Digits":
        return [(kind, bool(spec.get("individual_digits")))]
    if kind == "Split":
        return [(kind, spec.get("pattern", {}).get("Regex"), spec.get("behavior"), bool(spec.get("invert")))]
    return [(kind,)]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
