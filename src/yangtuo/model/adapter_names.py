"""Tensor names in adapter files, as PEFT has written them over the years and as other tools write them.

PEFT saves more than it uses: of a module that is trained in full, up to three copies (`X.weight`, which it loads,
`X.modules_to_save.weight`, the same, and `X.original_module.weight`, which nothing reads); of an embedding or head with
a LoRA on it, the frozen weight below (`X.base_layer.weight`), which it loads. Here every tensor gets the one name by
which it is used.

Source: `get_peft_model_state_dict` and `set_peft_model_state_dict` of PEFT 0.21, peft/utils/save_and_load.py.
"""

import re
from collections.abc import Collection, Mapping

import torch

PREFIX = "base_model.model."  # of every name in an adapter's file
_TOWER = re.compile(r"\.(?:language|text)_model\.")  # of the language model beside other towers
# Put into names by torch.compile, FSDP and activation checkpointing, and by DDP in front.
_WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# A LoRA matrix or vector, with the adapter's name where the whole model's state was saved: `lora_A.default.weight`.
_LORA = re.compile(
    r"^(?P<module>.+)\.(?P<kind>lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))(?:\.(?P<rest>.+))?$"
)
_FULL = re.compile(r"^(?P<module>.+)\.modules_to_save\.(?:[^.]+\.)?(?P<own>[^.]+)$")
_ROWS = re.compile(r"^(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.[^.]+)?$")


def as_used(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors by the names that today's PEFT gives to what it uses; what it never reads is left out."""
    has_prefix = any(_unwrapped(key).startswith(PREFIX) for key in tensors)
    chosen: dict[str, str] = {}
    for key in tensors:
        if _TOWER.sub(".", key) in tensors and _TOWER.search(key):  # see `under_both`
            continue
        name = name_in_use(key if has_prefix else f"{PREFIX}{_unwrapped(key)}")
        # Of two with one name, the shorter is the one that PEFT loads.
        if name is not None and (name not in chosen or len(key) < len(chosen[name])):
            chosen[name] = key
    return {name: tensors[key] for name, key in chosen.items()}


def under_both(tensors: Mapping[str, torch.Tensor], of_text: str, of_whole: str) -> dict[str, torch.Tensor]:
    """The tensors, and those of the decoder once more by their names in the published class of several towers.

    PEFT 0.21 and vLLM pass over names of the other class without a word: with both in the file, the adapter works on
    either. Source: https://github.com/vllm-project/vllm/issues/34186.
    """
    begin = PREFIX + of_text
    more = {PREFIX + of_whole + key.removeprefix(begin): key for key in tensors if key.startswith(begin)}
    return {**tensors, **{name: tensors[key] for name, key in more.items()}}


def fitted(tensors: Mapping[str, torch.Tensor], places: Collection[str]) -> dict[str, torch.Tensor]:
    """The tensors by the names of the class at hand, where they were named by the other class of the same base."""
    place_of = {_TOWER.sub(".", place): place for place in places}
    return {key if key in places else place_of.get(_TOWER.sub(".", key), key): tensors[key] for key in tensors}


def plain_name(name: str) -> str:
    """A parameter's or module's name in the base, without what PEFT has put around it."""
    plain = _unwrapped(name).removeprefix(PREFIX)
    for inner in (".base_layer", ".original_module", ".token_adapter"):
        plain = plain.replace(inner, "")
    return plain


def name_in_use(key: str) -> str | None:
    """One name; None for a copy that nothing reads."""
    key = _unwrapped(key)
    if ".original_module." in key:
        return None
    if lora := _LORA.match(key):
        rest = [part for part in (lora["rest"] or "").split(".") if part]
        own = rest[-1] if rest and rest[-1] in ("weight", "bias") else ""
        if lora["kind"] in ("lora_A", "lora_B"):
            return f"{lora['module']}.{lora['kind']}.{own or 'weight'}"
        return f"{lora['module']}.{lora['kind']}"
    if full := _FULL.match(key):
        return f"{full['module']}.{full['own']}"
    if rows := _ROWS.match(key):
        return f"{rows['module']}.token_adapter.trainable_tokens_delta"
    return key.replace(".base_layer.", ".")


def _unwrapped(key: str) -> str:
    return _WRAPPERS.sub("", key).removeprefix("module.")
