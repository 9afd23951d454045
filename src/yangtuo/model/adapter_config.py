"""adapter_config.json: read, its values of the right kind, and what PEFT says of one that does not fit."""

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig

from yangtuo.errors import AdapterError, one_line
from yangtuo.i18n import Listed, Message
from yangtuo.model.adapter_folder import CONFIG_FILE

logger = logging.getLogger(__name__)

# Kinds of beginning that take the LoRA out of the base's weights.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_NUMBER, _TEXT, _LIST, _OBJECT = (int, float), (str,), (list,), (dict,)
# What the field may be besides null; lists and objects with the kinds of their values.
_KINDS: dict[str, tuple[tuple[type, ...], tuple[type, ...] | None]] = {
    "r": ((int,), None),
    "lora_alpha": (_NUMBER, None),
    "lora_dropout": (_NUMBER, None),
    "bias": (_TEXT, None),
    **dict.fromkeys(("target_modules", "exclude_modules"), (_TEXT + _LIST, _TEXT)),
    **dict.fromkeys(("modules_to_save", "target_parameters"), (_LIST, _TEXT)),
    "layers_to_transform": ((int, *_LIST), (int,)),
    "rank_pattern": (_OBJECT, (int,)),
    "alpha_pattern": (_OBJECT, _NUMBER),
    "trainable_token_indices": (_LIST + _OBJECT, (int, list)),
    **dict.fromkeys(("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "ensure_weight_tying"), ((bool,), None)),
}
_WORDS = {
    **{int: Message("a whole number"), float: Message("a number"), str: Message("text")},
    **{bool: Message("true or false"), list: Message("a list"), dict: Message("an object")},
}
# What PEFT raises for a configuration that does not fit a base, or that it has not got a package for.
PEFT_REFUSALS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError)


def read_config(folder: Path) -> LoraConfig:
    """PEFT's configuration of a saved LoRA.

    Raises:
        AdapterError: broken JSON, another kind of adapter, values of the wrong kind (all of them are named), or a LoRA
            of a base that its training had changed before it began.
    """
    file = folder / CONFIG_FILE
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise AdapterError("{file}: broken JSON: {error}", file=file, error=error) from error
    if not isinstance(raw, dict):
        raise AdapterError("{file}: expected an object of JSON", file=file)
    if raw.get("peft_type") != "LORA":
        raise AdapterError(
            "{file}: peft_type is {peft_type!r}; only 'LORA' is supported", file=file, peft_type=raw.get("peft_type")
        )
    if raw.get("enable_lora"):
        raise AdapterError("{file}: enable_lora (merged projections of 2023) is not supported", file=file)
    _check_beginning(folder, str(raw.get("init_lora_weights", True)).lower())
    if wrong := list(_wrong_kinds(raw)):
        raise AdapterError.of_problems(Message("{file}: values of the wrong kind", file=file), wrong)
    known = {spec.name for spec in fields(LoraConfig)}
    unknown = sorted(set(raw) - known - {"enable_lora", "merge_weights", "peft_version"})
    if unknown:
        logger.warning("%s: this PEFT does not know and leaves out: %s", file, ", ".join(unknown))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Unexpected keyword arguments")  # said above, with names
            return LoraConfig.from_pretrained(str(folder))
    except PEFT_REFUSALS as error:
        raise AdapterError("{file}: PEFT cannot use it: {error}", file=file, error=one_line(error, 300)) from error


def refusal(whose: str, model_type: str, error: Exception) -> AdapterError:
    """One line of what PEFT refused, with what to do where an option decides it."""
    text = one_line(error, 300).rstrip(".")
    does = "; give --lora_dropout 0" if "lora_dropout" in text else ""
    return AdapterError(
        "{whose} does not fit this {model_type} base: {text}{does}",
        whose=whose,
        model_type=model_type,
        text=text,
        does=does,
    )


def _check_beginning(folder: Path, begin: str) -> None:
    if begin.startswith(_CHANGES_BASE):
        raise AdapterError(
            "{folder}: init_lora_weights {begin!r} belongs to a base that it changed at its start; convert the "
            "adapter first (PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...))",
            folder=folder,
            begin=begin,
        )


def _wrong_kinds(raw: Mapping[str, Any]) -> Iterator[str]:
    for name, (kinds, of_values) in _KINDS.items():
        value = raw.get(name)
        if value is None and name not in ("r", "lora_alpha"):
            continue
        if name in raw and not _is_a(value, kinds):
            yield Message(
                "{name} is {dumps}, expected {worded}",
                name=name,
                dumps=json.dumps(value, ensure_ascii=False),
                worded=_worded(kinds),
            )
        elif of_values and isinstance(value, list | dict):
            for part in value.values() if isinstance(value, dict) else value:
                if not _is_a(part, of_values):
                    shown = json.dumps(part, ensure_ascii=False)
                    yield Message(
                        "{name} holds {shown}, expected {worded}", name=name, shown=shown, worded=_worded(of_values)
                    )


def _is_a(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _worded(kinds: tuple[type, ...]) -> str:
    return Listed([_WORDS[kind] for kind in kinds if not (kind is int and float in kinds)], " or ")
