"""`generation_config.json`: how an answer ends and how its tokens are chosen, for this program and for others."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from yangtuo.data.encoding import end_id
from yangtuo.data.templates import Template
from yangtuo.data.tokenizer import Tokenizer
from yangtuo.errors import ModelError
from yangtuo.i18n import Message

GENERATION_CONFIG = "generation_config.json"

# What decides whether transformers takes the others; they are looked at first.
_DECIDING = ("do_sample", "num_beams", "use_cache", "return_dict_in_generate")
# Source: section 2.1 of `GenerationConfig.validate`, transformers 5.23.
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
# What this program's own answers know, with what each may be; the penalty is for greedy answers too.
_KNOWN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "temperature": (lambda value: value >= 0, Message("a number from 0 up")),
    "top_p": (lambda value: 0 < value <= 1, Message("a number above 0, at most 1")),
    "top_k": (lambda value: value >= 0 and int(value) == value, Message("a whole number from 0 up")),
    "repetition_penalty": (lambda value: value > 0, Message("a number above 0")),
}
# What would change an answer and is not known here, with the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff", "no_repeat_ngram_size"), (None, 0)),
    **dict.fromkeys(("typical_p", "encoder_repetition_penalty", "num_beams", "top_h"), (None, 1)),
    **dict.fromkeys(("penalty_alpha", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"), (None, 0, [])),
}


def read(folder: Path) -> dict[str, Any] | None:
    """The values of a folder's file, None where it has none.

    Raises:
        ModelError: it is broken.
    """
    path = folder / GENERATION_CONFIG
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise ModelError("{path}: broken JSON: {error}", path=path, error=error) from error
    if not isinstance(value, dict | None):
        raise ModelError("{path}: expected an object of JSON; mend it, or remove it", path=path)
    return value


def first_of(folders: Iterable[Path]) -> tuple[Path, dict[str, Any]] | None:
    """The first folder that has the file, and its values.

    Raises:
        ModelError: see `read`.
    """
    return next(((folder, values) for folder in folders if (values := read(folder)) is not None), None)


def choosing(values: Mapping[str, Any], where: Path) -> tuple[dict[str, float], list[str]]:
    """How tokens are chosen by these values, as far as it is not the likeliest token without a penalty.

    Returns:
        temperature, top_p, top_k and repetition_penalty, where they change anything; and the names of values that
        would change answers and are not known here.

    Raises:
        ModelError: a value that cannot be meant.
    """
    wrong = [
        Message("{key} is {value!r}; expected {allowed}", key=key, value=value, allowed=allowed)
        for key, (fits, allowed) in _KNOWN.items()
        if (value := values.get(key)) is not None
        and not (isinstance(value, int | float) and not isinstance(value, bool) and fits(value))
    ]
    if wrong:
        raise ModelError.of_problems(str(where / GENERATION_CONFIG), wrong)
    is_drawn = samples(values) and values.get("temperature") != 0
    found: dict[str, float] = {}
    if is_drawn:
        found["temperature"] = float(1.0 if values.get("temperature") is None else values["temperature"])
        found |= {key: values[key] for key, none in (("top_p", 1), ("top_k", 0)) if values.get(key) not in (None, none)}
    if values.get("repetition_penalty") not in (None, 1):
        found["repetition_penalty"] = float(values["repetition_penalty"])
    unknown = [
        key
        for key, neutral in _NEUTRAL.items()
        if values.get(key) not in (None, *neutral) and (is_drawn or key not in _SAMPLING)
    ]
    return found, unknown


def samples(values: Mapping[str, Any]) -> bool:
    """Whether tokens are drawn: a folder that has values for it and does not say means it (LLaMA 2's does)."""
    said = values.get("do_sample")
    return any(values.get(key) is not None for key in _SAMPLING) if said is None else bool(said)


def of_training(existing: Mapping[str, Any] | None, tokenizer: Tokenizer, template: Template) -> dict[str, Any]:
    """The file's values: the base's, with the end tokens of training.

    `eos_token_id` is the id that ended the trained answers, and the tokenizer's end token where that is another one.
    What transformers would refuse is left out, by its own judgement; values for sampling without `do_sample` get it.
    transformers loads others with a warning, and refuses to save them again once anything in them was changed.

    Args:
        existing: the base's, as read; None where it has none.
        tokenizer: of the training.
        template: of the training.
    """
    from transformers import GenerationConfig

    given = dict(existing or {})
    if given.get("do_sample") is None and samples(given):
        given["do_sample"] = True
    config = GenerationConfig()
    kept: dict[str, Any] = {}
    for key in sorted(given, key=lambda key: key not in _DECIDING):
        before = getattr(config, key, None)
        try:
            setattr(config, key, given[key])
            config.validate(strict=True)
        except (ValueError, TypeError, AttributeError):
            setattr(config, key, before)
        else:
            kept[key] = given[key]
    ends = list(dict.fromkeys((end_id(tokenizer, template), tokenizer.eos_id)))
    kept["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    pad = tokenizer.id_of(tokenizer.names.get("pad_token", ""))
    kept |= {key: i for key, i in (("bos_token_id", tokenizer.bos_id), ("pad_token_id", pad)) if i is not None}
    return kept


def to_text(values: Mapping[str, Any]) -> str:
    """As it is written."""
    return json.dumps(values, ensure_ascii=False, indent=2) + "\n"
